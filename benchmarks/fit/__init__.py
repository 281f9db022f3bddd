"""The fit beside other packages: accuracy, back-tests, speed, size."""
