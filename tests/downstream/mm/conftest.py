import importlib.util

# Without the extra "downstream" there is nothing here to test but its absence, which tests/downstream/test_absent.py
# does.
collect_ignore_glob = [] if importlib.util.find_spec("mmdet") else ["test_*.py"]
