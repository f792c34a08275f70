"""The one line that a repository needs to run suites with pytest."""

pytest_plugins = ["harness.plugin"]
