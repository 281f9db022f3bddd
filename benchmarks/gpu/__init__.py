"""What runs on an accelerator, checked on one."""
