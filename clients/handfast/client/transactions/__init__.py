"""Transactions over several services.

state.py    what a transaction has done so far, and what is left to do to end it
"""
