"""What stands for each warehouse on a machine without internet: real engines where there are any, else stand-ins.

Each class is a context manager that runs it, with one method: `place(folder)`, the environment of a fresh place there.
"""
