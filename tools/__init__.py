"""What developers run: the demo, the processes behind it, and the generators of what is committed."""
