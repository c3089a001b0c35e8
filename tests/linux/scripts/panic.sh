# A panic, which the panic device tells the host.
sleep 1
echo c >/proc/sysrq-trigger
