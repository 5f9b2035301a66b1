#!/bin/busybox sh
# Offers every file in /programs to the kernel and says what became of it: lines that begin with "weft: ". Runs as the
# first process of a machine of its own, or in a mount namespace and a root of its own; so what it mounts and pins goes.
PATH=/bin:/usr/sbin
bb=/bin/busybox

$bb mount -t proc proc /proc && $bb mount -t bpf bpf /bpf || echo "weft: log cannot mount"
echo "weft: kernel $($bb uname -r)"
for file in /programs/*; do
	name=${file##*/}
	if bpftool prog loadall "$file" "/bpf/$name" >/log/load 2>&1; then
		# Once more, to be told how much work it was; a log of every instruction would be cut off in the first.
		bpftool -d prog loadall "$file" "/bpf/again-$name" >/log/again 2>&1
		count=$($bb awk '/^processed /{sum += $2} END {print sum + 0}' /log/again)
		echo "weft: accepted $name $count"
	else
		# The end tells why.
		$bb tail -n 150 /log/load | $bb sed 's/^/weft: log /'
		echo "weft: refused $name"
	fi
done
echo "weft: done"
[ $$ -ne 1 ] || $bb poweroff -f
