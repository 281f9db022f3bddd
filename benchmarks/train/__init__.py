"""The trainer beside a loop written by hand and other trainers."""
