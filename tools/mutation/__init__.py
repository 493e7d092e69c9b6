"""Plants single faults in the servers, one at a time, and says which of them the tests do not notice.

cosmic-ray makes the faults (https://cosmic-ray.readthedocs.io). Each part of the servers is tried with the tests that
belong to it, on SQLite but for what is PostgreSQL's, in a copy of the working tree. A whole part can take hours;
`--sample` draws so many of its faults by `--seed`, and the score is then that of the sample.

The score is how many of the faults the tests notice, in percent. What they do not notice is printed as a diff. Some of
that is no fault, since nothing changes for anybody: `equivalent.toml` lists what is known to be so, with the reason,
and none of it is drawn. Ctrl-C ends a run early, and the score is that of the faults that were tried until then.

parts.py           the parts, and the tests of each
faults.py          the faults of a module
trial.py           the copy, and the tests that run in it
equivalent.toml    changes that are no faults
"""
