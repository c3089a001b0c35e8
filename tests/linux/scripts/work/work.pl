# Work for perl: hashes, sorting, regular expressions, strings, whole numbers of any length, MD5 by hand, floating point.
use strict;
use warnings;

my $seed = 42;
sub rnd { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $seed >> 8; }

my %count;
my @words = map { join '', map { chr(97 + rnd() % 4) } 1 .. 3 } 1 .. 4000;
$count{$_}++ for @words;
my @top = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "words: ", scalar(@top), " $top[0] $count{$top[0]} $top[-1] $count{$top[-1]}\n";

my $text = join ' ', @words;
my $n = () = $text =~ /\b(\w)\w\1\b/g;
(my $swapped = $text) =~ s/(a+)(b+)/$2$1/g;
my $changed = 0;
for my $i (0 .. length($text) - 1) { $changed++ if substr($text, $i, 1) ne substr($swapped, $i, 1); }
print "patterns: $n, changed: $changed\n";

# 2 to the 700th, digit by digit.
my @d = (1);
for (1 .. 700) {
    my $c = 0;
    for my $x (@d) { $x = $x * 2 + $c; $c = $x >= 10 ? 1 : 0; $x -= 10 if $c; }
    push @d, 1 if $c;
}
my $s = 0;
$s += $_ for @d;
print "2^700: ", scalar(@d), " digits, ", join('', reverse @d[-20 .. -1]), "..., sum $s\n";

sub md5 {
    my $m = shift;
    my @s = ((7, 12, 17, 22) x 4, (5, 9, 14, 20) x 4, (4, 11, 16, 23) x 4, (6, 10, 15, 21) x 4);
    my @k = map { int(abs(sin($_ + 1)) * 4294967296) } 0 .. 63;
    my @h = (0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476);
    my $len = length($m) * 8;
    $m .= "\x80";
    $m .= "\0" while length($m) % 64 != 56;
    $m .= pack 'VV', $len & 0xffffffff, $len >> 32;
    for (my $o = 0; $o < length $m; $o += 64) {
        my @w = unpack 'V16', substr($m, $o, 64);
        my ($a, $b, $c, $d) = @h;
        for my $i (0 .. 63) {
            my ($f, $g);
            if    ($i < 16) { $f = ($b & $c) | (~$b & $d); $g = $i; }
            elsif ($i < 32) { $f = ($d & $b) | (~$d & $c); $g = (5 * $i + 1) % 16; }
            elsif ($i < 48) { $f = $b ^ $c ^ $d; $g = (3 * $i + 5) % 16; }
            else            { $f = $c ^ ($b | (~$d & 0xffffffff)); $g = 7 * $i % 16; }
            $f = (($f & 0xffffffff) + $a + $k[$i] + $w[$g]) & 0xffffffff;
            ($a, $d, $c) = ($d, $c, $b);
            $b = ($b + (($f << $s[$i] | $f >> (32 - $s[$i])) & 0xffffffff)) & 0xffffffff;
        }
        @h = map { $_ & 0xffffffff } ($h[0] + $a, $h[1] + $b, $h[2] + $c, $h[3] + $d);
    }
    return unpack 'H*', pack 'V4', @h;
}
print "md5: ", md5('abc'), ' ', md5('x' x 5000), "\n";

my $e = 0;
my $f = 1;
for my $i (1 .. 25) { $e += 1 / $f; $f *= $i; }
my $pi = 0;
$pi += (($_ & 1) ? -4 : 4) / (2 * $_ + 1) for 0 .. 20000;
printf "e %.12f, pi %.9f, %s\n", $e, $pi, join ',', map { sprintf '%.6g', sqrt $_ } 2 .. 6;
my @matrix = map { [map { rnd() % 10 } 1 .. 12] } 1 .. 12;
my $trace = 0;
for my $i (0 .. 11) { for my $j (0 .. 11) { $trace += $matrix[$i][$j] * $matrix[$j][$i]; } }
print "matrix: $trace\n";
my $pid = fork;
if ($pid == 0) { exit 7; }
waitpid $pid, 0;
print "child: ", $? >> 8, "\n";
print "eval: ", eval('my $t = 0; $t += $_ ** 2 for 1 .. 100; $t'), "\n";
