#!/bin/busybox sh
# The first process of the virtual machine: makes a small Linux of the kernel, runs one command, says how it
# ended and switches the machine off.
export PATH=/tools/wrap:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount --make-rshared /
ln -sf /proc/self/fd /dev/fd
# Where this file is, AWS-LC seeds itself from the kernel alone and does not measure the jitter of the CPU, which takes
# every new process half a second on an emulated one.
head -c 4096 /dev/zero >/dev/sysgenid && chmod 444 /dev/sysgenid
mkdir -p /run/netns /var/lib/nginx /var/log/nginx
hostname guest
ip link set lo up
ulimit -n 65536
while read -r file must; do
    if ! insmod "/modules/$file" 2>/run/insmod && [ "$must" = must ]; then
        echo "guest: module $file does not load: $(cat /run/insmod)"
    fi
done </modules/order
. /run-this/limits
# A machine whose owner is gone ends by itself.
(sleep "$DEADLINE" && poweroff -f) >/dev/null 2>&1 &
cd /root
sh /run-this/command </dev/null
code=$?
# Nothing of the kernel's in the middle of the last line.
dmesg -n 1
echo "$MARK $code"
poweroff -f
