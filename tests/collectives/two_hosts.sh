#!/bin/sh
# Two hosts on this machine: run by `unshare --user --map-root-user --net --uts --pid --fork --kill-child`, which is the first of them; the second
# has a network and a name of its own, and a cable goes between them. Both end with what is run. $1: a folder for the agent, which takes the
# place of ssh for the second host; then the command to run on the first.
set -e
folder=$1
shift
hostname host-one
ip link set lo up
unshare --net --uts sleep 1000 &
other=$!
while [ "$(readlink "/proc/$other/ns/net" || true)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add eth0 type veth peer name eth0 netns "$other"
ip addr add 10.213.7.1/24 dev eth0
ip link set eth0 up
nsenter -t "$other" -n -u sh -c 'hostname host-two; ip link set lo up; ip addr add 10.213.7.2/24 dev eth0; ip link set eth0 up'
cat >"$folder/agent" <<AGENT
#!/bin/sh
while [ \$# -gt 0 ]; do case \$1 in -x | -q | -n) shift ;; -o | -p | -l) shift 2 ;; *) break ;; esac; done
shift
exec nsenter -t $other -n -u sh -c "\$*"
AGENT
chmod +x "$folder/agent"
code=0
"$@" || code=$?
kill "$other"
exit $code
