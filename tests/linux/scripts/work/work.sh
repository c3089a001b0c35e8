# Work for a shell: arithmetic, strings, functions, pipes, here-documents. Every shell must say the same.
fib() {
    a=0 b=1 i=0
    while [ $i -lt "$1" ]; do
        t=$((a + b)) a=$b b=$t i=$((i + 1))
    done
    echo $a
}
primes=
n=2
while [ $n -lt 400 ]; do
    prime=1
    for p in $primes; do
        [ $((p * p)) -le $n ] || break
        [ $((n % p)) -ne 0 ] || prime=0
    done
    [ $prime -eq 0 ] || primes="$primes $n"
    n=$((n + 1))
done
echo "primes:$primes"
fib 80
word=abcdefghijklmnopqrstuvwxyz out=
while [ -n "$word" ]; do
    rest=${word#?}
    out=${word%"$rest"}$out
    word=$rest
done
echo $out
for w in one two three fourteen; do
    case $w in
    o*) echo "$w begins with o" ;;
    *ee) echo "$w ends with ee" ;;
    ????????) echo "$w has eight letters" ;;
    *) echo "$w" ;;
    esac
done
seq 1 300 | while read -r i; do printf '%05d %x %o\n' "$i" $((i * i)) $((i << 3)); done | sort -r | head -n 200 | md5sum
i=0
while [ $i -lt 20 ]; do
    v=$(echo $i | tr 0-9 a-j)
    cat <<TEXT
line $i is $v and $((i ^ 21))
TEXT
    i=$((i + 1))
done
(exit 3)
echo "status $?"
trap 'echo trapped' USR1
kill -USR1 $$
sleep 0
x=$(trap - USR1; seq 100 | awk '{ s += $1 } END { print s }')
echo "$x"
