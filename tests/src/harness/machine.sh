# Turns namespaces of its own into a machine and runs its first process: `machine.sh TREE ROOT PROGRAM COMMAND...`, with the
# programs of TREE, the files of ROOT, and PROGRAM as /usr/local/sbin/mtls-appliance.
set -e
tree=$1 root=$2 program=$3
shift 3
mount -o bind "$root" "$root"
cd "$root"
mkdir -p bin lib lib64 sbin usr proc sys dev run tmp root var
for folder in bin lib lib64 sbin usr; do mount -o bind "$tree/$folder" "$folder"; done
mount -t tmpfs tmpfs usr/local
mkdir usr/local/sbin
: >usr/local/sbin/mtls-appliance
mount -o bind "$program" usr/local/sbin/mtls-appliance
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs tmpfs run
# On any other file system systemd takes it that there is no udev.
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
# What was the root stays behind, out of reach.
mount -o move . /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . "$@"
