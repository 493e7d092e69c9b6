"""The servers of the suite, and what they are built on.

users/  preferences/  accounts/   one folder a server, with the same file names in each
transactions/                     atomic commit between them: the rules, the participant, the coordinator
chassis/                          what every server is built on
cli/                              the `handfast` command
"""
