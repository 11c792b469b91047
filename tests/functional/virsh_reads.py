"""All commands of virsh: those that only read, with arguments that make sense, and the rest.

What stands in braces is filled in by whoever runs them: ``dom`` is a running guest with a disk ``vda``, a
network card, a snapshot and metadata, ``uuid`` and ``id`` are its own; ``pool``, ``vol``, ``net`` are names.
"""

from __future__ import annotations

#: What reads, on every driver; a driver that does not have it refuses it in its own words.
READS = """\
cpu-stats {dom}
cpu-stats {dom} --total
domdisplay {dom}
domdisplay {dom} --include-password
domfsinfo {dom}
domhostname {dom}
domid {dom}
domjobinfo {dom}
domjobinfo {dom} --completed
domlaunchsecinfo {dom}
domname {uuid}
domuuid {dom}
domuuid {id}
domuuid nobody
dumpxml {dom}
dumpxml {dom} --inactive
dumpxml {dom} --security-info
dumpxml {dom} --xpath //name
dumpxml {uuid} --migratable
dumpxml nobody
domxml-to-native qemu-argv --domain {dom}
desc {dom}
desc {dom} --title
metadata {dom} http://x.invalid/
blkdeviotune {dom} vda
blkiotune {dom}
blockjob {dom} vda
domiftune {dom} {mac}
memtune {dom}
numatune {dom}
perf {dom}
schedinfo {dom}
iothreadinfo {dom}
guestvcpus {dom}
guestinfo {dom}
get-user-sshkeys {dom} root
managedsave-dumpxml {dom}
migrate-getmaxdowntime {dom}
migrate-compcache {dom}
migrate-getspeed {dom}
save-image-dumpxml /nonexistent
ttyconsole {dom}
vncdisplay {dom}
vcpucount {dom}
vcpucount {dom} --live --active
vcpuinfo {dom}
vcpuinfo {dom} --pretty
vcpupin {dom}
emulatorpin {dom}
domblkerror {dom}
domblkinfo {dom} vda
domblkinfo {dom} --all
domblklist {dom}
domblklist {dom} --details
domblkstat {dom} vda
domblkstat {dom}
domcontrol {dom}
domif-getlink {dom} {mac}
domifaddr {dom}
domiflist {dom}
domifstat {dom} {mac}
dominfo {dom}
dominfo {id}
dommemstat {dom}
domstate {dom} --reason
domstats
domstats {dom}
domstats --state --list-running
domstats {dom} --vcpu --balloon --block --interface --perf --iothread --memory --dirtyrate --vm
domtime {dom}
list
list --all
list --all --title
list --inactive --name
list --all --uuid
list --with-snapshot --name --all
list --without-snapshot --name --all
list --state-running --name
list --id --all
capabilities
cpu-baseline /dev/null
cpu-compare /dev/null
cpu-models x86_64
domcapabilities
domcapabilities --virttype qemu --arch x86_64
freecell
freecell --all
freepages --all
hostname
hypervisor-cpu-baseline --virttype qemu {file}
hypervisor-cpu-compare --virttype qemu {file}
maxvcpus
maxvcpus qemu
node-memory-tune
nodecpumap
nodecpumap --pretty
nodecpustats
nodeinfo
nodememstats
nodesevinfo
sysinfo
version
version --daemon
checkpoint-list {dom}
checkpoint-dumpxml {dom} {snap}
checkpoint-info {dom} {snap}
checkpoint-parent {dom} {snap}
iface-list --all
iface-dumpxml {iface}
iface-mac {iface}
iface-name {mac}
iface-bridge
nwfilter-list
nwfilter-dumpxml f1
nwfilter-binding-list
nwfilter-binding-dumpxml p1
net-list --all
net-list --name --all
net-list --uuid
net-dhcp-leases {net}
net-dumpxml {net}
net-info {net}
net-uuid {net}
net-name {netuuid}
net-port-list {net}
net-port-dumpxml {net} {uuid}
nodedev-list
nodedev-list --tree
nodedev-list --all
nodedev-dumpxml computer
nodedev-info computer
secret-list
secret-dumpxml {secret}
secret-get-value {secret}
snapshot-current {dom}
snapshot-current {dom} --name
snapshot-dumpxml {dom} {snap}
snapshot-dumpxml {dom} nobody
snapshot-info {dom} {snap}
snapshot-info {dom} --current
snapshot-list {dom}
snapshot-list {dom} --tree
snapshot-list {dom} --parent
snapshot-list {dom} --roots --name
snapshot-list nobody
snapshot-parent {dom} {snap}
backup-dumpxml {dom}
find-storage-pool-sources-as logical
find-storage-pool-sources dir
pool-list
pool-list --all --details
pool-list --type dir --name
pool-dumpxml {pool}
pool-dumpxml {pool} --inactive
pool-info {pool}
pool-info {pool} --bytes
pool-uuid {pool}
pool-name {pooluuid}
pool-info nobody
pool-capabilities
vol-list {pool}
vol-list {pool} --details
vol-dumpxml {vol} --pool {pool}
vol-info {vol} --pool {pool}
vol-info {vol} --pool {pool} --bytes --physical
vol-key {vol} --pool {pool}
vol-name {path}
vol-path {vol} --pool {pool}
vol-pool {path}
vol-info nobody --pool {pool}
qemu-monitor-command {dom} --hmp info version
""".splitlines()

#: What tells of events: these wait.
WAITS = {"event", "net-event", "nodedev-event", "secret-event", "pool-event", "qemu-monitor-event"}

#: What only virsh itself knows.
OWN = {"cd", "echo", "exit", "help", "pwd", "quit", "connect", "uri"}

#: What writes, or passes data.
_WRITES = """\
attach-device attach-disk attach-interface autostart blockcommit blockcopy blockpull blockresize
change-media console create define destroy detach-device detach-device-alias detach-disk detach-interface
domfsfreeze domfsthaw domfstrim domif-setlink domjobabort domsetlaunchsecstate domrename dompmsuspend
dompmwakeup domxml-from-native dump edit inject-nmi iothreadpin iothreadadd iothreadset iothreaddel send-key
send-process-signal lxc-enter-namespace managedsave managedsave-remove managedsave-edit managedsave-define
migrate migrate-setmaxdowntime migrate-setspeed migrate-postcopy qemu-attach qemu-agent-command
guest-agent-timeout reboot reset restore resume save save-image-define save-image-edit screenshot
set-lifecycle-action set-user-sshkeys set-user-password setmaxmem setmem setvcpus shutdown start suspend
undefine update-device update-memory-device setvcpu domblkthreshold dom-fd-associate domdirtyrate-calc
allocpages nodesuspend checkpoint-create checkpoint-create-as checkpoint-delete checkpoint-edit iface-begin
iface-commit iface-define iface-destroy iface-edit iface-rollback iface-start iface-unbridge iface-undefine
nwfilter-define nwfilter-edit nwfilter-undefine nwfilter-binding-create nwfilter-binding-delete
net-autostart net-create net-define net-destroy net-edit net-start net-undefine net-update net-port-create
net-port-delete nodedev-create nodedev-destroy nodedev-detach nodedev-reattach nodedev-reset nodedev-define
nodedev-undefine nodedev-start nodedev-autostart secret-define secret-set-value secret-undefine
snapshot-create snapshot-create-as snapshot-delete snapshot-edit snapshot-revert backup-begin pool-autostart
pool-build pool-create-as pool-create pool-define-as pool-define pool-delete pool-destroy pool-edit
pool-refresh pool-start pool-undefine vol-clone vol-create-as vol-create vol-create-from vol-delete
vol-download vol-resize vol-upload vol-wipe
"""
WRITES = frozenset(_WRITES.split())

#: Of what these say, numbers differ from one moment to the next.
MOVING = {
    "cpu-stats",
    "domstats",
    "dominfo",
    "dommemstat",
    "domtime",
    "vcpuinfo",
    "nodecpustats",
    "nodememstats",
}
MOVING |= {
    "freecell",
    "freepages",
    "domblkstat",
    "domifstat",
    "pool-info",
    "pool-list",
    "pool-dumpxml",
    "domblkinfo",
}
