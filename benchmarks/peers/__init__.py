"""What the suite is measured beside, each a file: the same work by other means.

echo.py    `grpc.server` that answers GetUser with a constant message: the unit of CPU time
"""
