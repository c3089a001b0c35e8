# Resets the machine.
reboot -f
