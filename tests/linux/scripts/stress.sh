# Threads and processes on every processor; see tests/linux/stress.c.
/tests/stress 1500
