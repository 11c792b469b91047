"""Tables of XML: what tenants need, and what nobody may send."""

from __future__ import annotations

from gateway.rpc.xml_guard import Policy

UUID = "2e0ccdcc-33bb-4d58-ab08-eb4e631bf61a"
POLICY = Policy(
    volumes=("tenants/alice-*", "iso/*"),
    networks=("alice", "shared-*"),
    roots=("/srv/images",),
    emulators=("/usr/bin/qemu-system-x86_64",),
    remote_disks=("nbd://store.invalid",),
)
#: As virt-install and libvirt write them.
FINE = f"""
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>alice-1</name>
  <uuid>{UUID}</uuid>
  <title>A guest, for /all/ purposes</title>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='KiB'>16384</memory>
  <currentMemory>16384</currentMemory>
  <vcpu placement='static' current='1'>2</vcpu>
  <iothreads>1</iothreads>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <boot dev='hd'/><boot dev='network'/>
    <bios useserial='yes'/>
    <smbios mode='sysinfo'/>
  </os>
  <sysinfo type='smbios'><system><entry name='serial'>a/b</entry></system></sysinfo>
  <features>
    <acpi/><apic/><vmport state='off'/><kvm><hidden state='on'/></kvm>
    <hyperv mode='custom'><relaxed state='on'/><spinlocks state='on' retries='8191'/></hyperv>
  </features>
  <cpu mode='host-passthrough' check='none' migratable='on'>
    <topology sockets='1' dies='1' cores='2' threads='1'/>
    <feature policy='require' name='hypervisor'/>
  </cpu>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='no'/></clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
  <devices>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap' iothread='1'/>
      <source pool='tenants' volume='alice-root.qcow2'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <controller type='usb' index='0' model='qemu-xhci' ports='15'/>
    <controller type='pci' index='1' model='pcie-root-port'>
      <model name='pcie-root-port'/><target chassis='1' port='0x10'/>
    </controller>
    <interface type='network'>
      <mac address='52:54:00:01:02:03'/>
      <source network='alice'/>
      <model type='virtio'/>
      <filterref filter='clean-traffic'/>
    </interface>
    <serial type='pty'><target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <channel type='unix'>
      <source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='geheim'>
      <listen type='address' address='127.0.0.1'/>
    </graphics>
    <graphics type='spice' autoport='yes'><listen type='none'/><image compression='off'/></graphics>
    <sound model='ich9'/><audio id='1' type='none'/>
    <video><model type='virtio' heads='1' primary='yes'/></video>
    <redirdev bus='usb' type='spicevmc'/>
    <watchdog model='itco' action='reset'/>
    <memballoon model='virtio'><stats period='5'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
TARGET = "<target dev='vda'/>"
#: Devices that are refused whatever the policy says.
DEVICES = (
    # The host's own devices.
    "<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source></hostdev>",
    "<hostdev mode='subsystem' type='usb'/>",
    "<hostdev mode='capabilities' type='misc'><source><char>/dev/mem</char></source></hostdev>",
    "<redirdev bus='usb' type='tcp'><source mode='connect' host='192.0.2.1' service='4000'/></redirdev>",
    "<redirdev bus='usb' type='dev'><source path='/dev/ttyS0'/></redirdev>",
    "<redirdev bus='usb'/>",
    "<smartcard mode='host'/>",
    "<smartcard mode='host-certificates'><database>/etc/pki</database></smartcard>",
    "<smartcard mode='passthrough' type='tcp'/>",
    "<input type='passthrough' bus='virtio'><source evdev='/dev/input/event1'/></input>",
    "<input type='evdev'><source dev='/dev/input/event1'/></input>",
    "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
    "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>",
    "<shmem name='a'><model type='ivshmem-plain'/></shmem>",
    "<memory model='nvdimm'><source><path>/dev/dax0.0</path></source></memory>",
    "<vsock model='virtio'><cid auto='yes'/></vsock>",
    "<lease><lockspace>a</lockspace></lease>",
    "<nvram><address type='spapr-vio'/></nvram>",
    "<crypto model='virtio' type='qemu'/>",
    "<filesystem type='mount'><source dir='/'/><target dir='root'/></filesystem>",
    "<filesystem type='mount'><driver type='virtiofs'/><source socket='/s'/><target dir='r'/></filesystem>",
    # Disks.
    f"<disk type='block'><source dev='/dev/sda'/>{TARGET}</disk>",
    f"<disk type='dir'><source dir='/etc'/>{TARGET}</disk>",
    f"<disk type='nvme'><source type='pci' namespace='1'/>{TARGET}</disk>",
    f"<disk type='vhostuser'><source type='unix' path='/s'/>{TARGET}</disk>",
    f"<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-0'/>{TARGET}</disk>",
    f"<disk><source file='/srv/images/a'/>{TARGET}</disk>",
    f"<disk type='volume' device='lun'><source pool='iso' volume='a'/>{TARGET}</disk>",
    f"<disk type='volume' snapshot='external'><source pool='iso' volume='a'/>{TARGET}</disk>",
    f"<disk type='volume' snapshot='manual'><source pool='iso' volume='a'/>{TARGET}</disk>",
    f"<disk type='volume' sgio='unfiltered'><source pool='iso' volume='a'/>{TARGET}</disk>",
    f"<disk type='volume' rawio='yes'><source pool='iso' volume='a'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='other' volume='a'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='tenants' volume='bob-1'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='../a'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='x/a'/>{TARGET}</disk>",
    f"<disk type='volume'><source volume='a'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a' file='/etc/shadow'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a' mode='host'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a' startupPolicy='optional'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a'><seclabel relabel='no'/></source>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a'><reservations managed='no'/></source>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a'><encryption format='luks'/></source>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/><source pool='other' volume='b'/>{TARGET}</disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}<backingStore type='file'>"
    "<source file='/etc/shadow'/></backingStore></disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}<mirror file='/x'/></disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}<auth username='a'/></disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}<driver name='tap'/></disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}<driver type='vvfat'/></disk>",
    f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}<driver name='qemu' io='x'/></disk>",
    f"<disk type='file'><source file='/etc/shadow'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images/../shadow'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images//a'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images/./a'/>{TARGET}</disk>",
    f"<disk type='file'><source file='//srv/images/a'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/imagesX/a'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images/'/>{TARGET}</disk>",
    f"<disk type='file'><source file='srv/images/a'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images/a' fdgroup='x'/>{TARGET}</disk>",
    f"<disk type='file'><source file='/srv/images/a&#10;'/>{TARGET}</disk>",
    f"<disk type='file'><source startupPolicy='optional' file='/srv/images/a'/>{TARGET}</disk>",
    f"<disk type='network'><source protocol='nbd' name='a'/>{TARGET}</disk>",
    "<disk type='network'><source protocol='rbd' name='a/b'><host name='store.invalid'/></source>"
    f"{TARGET}</disk>",
    "<disk type='network'><source protocol='nbd'><host name='store.invalid'/><host name='x.invalid'/>"
    f"</source>{TARGET}</disk>",
    "<disk type='network'><source protocol='nbd'><host transport='unix' socket='/s' name='store.invalid'/>"
    f"</source>{TARGET}</disk>",
    # Networks.
    "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>",
    "<interface type='hostdev'><source><address type='pci'/></source></interface>",
    "<interface type='bridge'><source bridge='br0'/></interface>",
    "<interface type='ethernet'><target dev='tap0'/></interface>",
    "<interface type='ethernet'><script path='/bin/sh'/></interface>",
    "<interface type='vhostuser'><source type='unix' path='/s' mode='client'/></interface>",
    "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
    "<interface type='user'/>",
    "<interface type='user'><backend type='passt' logFile='/x'/></interface>",
    "<interface type='server'><source address='0.0.0.0' port='5558'/></interface>",
    "<interface type='udp'><source address='192.0.2.1' port='5558'/></interface>",
    "<interface><source network='alice'/></interface>",
    "<interface type='network'><source network='bob'/></interface>",
    "<interface type='network'><source network='alice' dev='eth0'/></interface>",
    "<interface type='network'><source network='alice' bridge='br0'/></interface>",
    "<interface type='network'><source network='alice'/><script path='/bin/sh'/></interface>",
    "<interface type='network'><source network='alice'/><downscript path='/bin/sh'/></interface>",
    "<interface type='network'><source network='alice'/><backend tap='/dev/net/tun'/></interface>",
    "<interface type='network'><source network='alice'/><target dev='eth0'/></interface>",
    "<interface type='network'><source network='alice'/><vlan trunk='yes'><tag id='4'/></vlan></interface>",
    "<interface type='network'><source network='alice'/><virtualport type='openvswitch'/></interface>",
    "<interface type='network'><source network='alice'/><rom file='/etc/shadow'/></interface>",
    "<interface type='network' trustGuestRxFilters='yes'><source network='alice'/></interface>",
    # Lines.
    *(
        f"<{element} type='{kind}'><source {source}/><target port='0'/></{element}>"
        for element in ("serial", "console", "parallel", "channel")
        for kind, source in (
            ("file", "path='/etc/passwd'"),
            ("dev", "path='/dev/ttyS0'"),
            ("pipe", "path='/tmp/p'"),
            ("unix", "mode='bind' path='/run/libvirt/s'"),
            ("unix", "mode='connect' path='/run/libvirt/libvirt-sock'"),
            ("tcp", "mode='bind' host='0.0.0.0' service='4000'"),
            ("tcp", "mode='connect' host='192.0.2.1' service='22'"),
            ("udp", "mode='connect' host='192.0.2.1' service='22'"),
            ("stdio", "path='x'"),
            ("pty", "path='/dev/pts/1'"),
            ("nmdm", "master='/dev/nmdm0A'"),
            ("dbus", "channel='x'"),
        )
    ),
    "<serial type='unix'/>",
    "<console type='stdio'/>",
    "<serial type='pty'><log file='/etc/cron.d/x' append='on'/></serial>",
    "<serial type='pty' tty='/dev/pts/1'/>",
    "<channel type='unix'><source mode='connect'/><target type='virtio' name='a'/></channel>",
    "<channel type='unix'><target type='virtio' name='../../a'/></channel>",
    "<channel type='unix'><target type='virtio'/></channel>",
    "<channel type='pty'><target type='guestfwd' address='192.0.2.1' port='22'/></channel>",
    # Screens and the rest.
    "<graphics type='vnc' listen='0.0.0.0'/>",
    "<graphics type='vnc' listen='192.0.2.1'/>",
    "<graphics type='vnc' listen=''/>",
    "<graphics type='vnc' socket='/tmp/s'/>",
    "<graphics type='vnc'><listen type='address' address='0.0.0.0'/></graphics>",
    f"<disk type='block'><source dev='/srv/images/a'/>{TARGET}</disk>",
    "<graphics type='vnc'><listen type='address' address='::'/></graphics>",
    "<graphics type='vnc'><listen type='network' network='alice'/></graphics>",
    "<graphics type='vnc'><listen type='socket' socket='/tmp/s'/></graphics>",
    "<graphics type='vnc'><listen address='127.0.0.1'/></graphics>",
    "<graphics type='spice'><gl enable='yes' rendernode='/dev/dri/renderD128'/></graphics>",
    "<graphics type='spice'><gl enable='no' rendernode='/dev/dri/renderD128'/></graphics>",
    "<graphics type='sdl' display=':0' xauth='/root/.Xauthority'/>",
    "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics>",
    "<graphics type='rdp'/>",
    "<graphics type='dbus'/>",
    "<graphics type='desktop'/>",
    "<graphics/>",
    "<video><driver name='vhostuser'/></video>",
    "<video><model type='virtio'><acceleration accel3d='yes' rendernode='/dev/dri/card0'/></model></video>",
    "<audio id='1' type='file' path='/tmp/a'/>",
    "<audio id='1' type='pulseaudio' serverName='/run/pulse'/>",
    "<audio id='1' type='none'><input dev='/dev/dsp'/></audio>",
    "<rng model='virtio'><backend model='random'>/dev/sda</backend></rng>",
    "<rng model='virtio'><backend model='random'>/dev/urandom </backend></rng>",
    "<rng model='virtio'><backend model='egd' type='udp'><source host='192.0.2.1'/></backend></rng>",
    "<watchdog model='itco' action='dump'/>",
    "<emulator>/bin/sh</emulator>",
    "<controller type='pci' index='0'><driver iothread='999'/></controller>",
    "<controller type='scsi' index='0' model='a/b'/>",
    "<iommu model='intel'/>",
    "<script/>",
    f"<commandline xmlns='{QEMU}'><arg value='-S'/></commandline>",
)
#: Parts of a domain, outside of its devices, that are refused whatever the policy says.
PARTS = (
    f"<commandline xmlns='{QEMU}'><arg value='-S'/></commandline>",
    f"<capabilities xmlns='{QEMU}'><add capability='x'/></capabilities>",
    f"<override xmlns='{QEMU}'/>",
    f"<name xmlns='{QEMU}'>x</name>",
    "<seclabel type='none'/>",
    "<seclabel type='static' model='dac'><label>root:root</label></seclabel>",
    "<resource><partition>/machine</partition></resource>",
    "<resource fibrechannel='x'/>",
    "<bootloader>/bin/sh</bootloader>",
    "<cputune><vcpupin vcpu='0' cpuset='0'/></cputune>",
    "<memtune><hard_limit>1</hard_limit></memtune>",
    "<blkiotune><device><path>/dev/sda</path></device></blkiotune>",
    "<numatune><memory mode='strict' nodeset='0'/></numatune>",
    "<memoryBacking><hugepages/></memoryBacking>",
    "<memoryBacking><locked/></memoryBacking>",
    "<memoryBacking><source type='file'/></memoryBacking>",
    "<launchSecurity type='sev'><session>x</session></launchSecurity>",
    "<perf><event name='cmt' enabled='yes'/></perf>",
    "<keywrap/>",
    "<idmap><uid start='0' target='0' count='1'/></idmap>",
    "<vcpu cpuset='0-3'>1</vcpu>",
    "<iothreads>1000</iothreads>",
    "<on_crash>coredump-destroy</on_crash>",
    "<on_crash>coredump-restart</on_crash>",
    "<sysinfo type='fwcfg'><entry name='opt/a' file='/etc/shadow'/></sysinfo>",
    "<sysinfo type='smbios'><system><entry name='a' file='/etc/shadow'>x</entry></system></sysinfo>",
    "<os><type>exe</type></os>",
    "<os><type>linux</type></os>",
    "<os><loader readonly='yes' type='pflash'>/etc/shadow</loader></os>",
    "<os><nvram>/etc/shadow</nvram></os>",
    "<os><nvram template='/etc/shadow'/></os>",
    "<os><kernel>/boot/vmlinuz</kernel></os>",
    "<os><initrd>/boot/initrd</initrd></os>",
    "<os><cmdline>x</cmdline></os>",
    "<os><dtb>/etc/shadow</dtb></os>",
    "<os><acpi><table type='slic'>/etc/shadow</table></acpi></os>",
    "<os><init>/bin/sh</init></os>",
    "<os><smbios mode='host'/></os>",
    "<clock offset='timezone' timezone=':/etc/shadow'/>",
    "<clock offset='timezone' timezone='../../etc/shadow'/>",
    "<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu>",
    "<features><tcg><tb-cache>1</tb-cache></tcg></features>",
    "<evil/>",
    "evil",
)


def domain(inner: str, devices: str = "", kind: str = "kvm") -> str:
    """A small domain with more in it."""
    return f"<domain type='{kind}'><name>alice-1</name>{inner}<devices>{devices}</devices></domain>"


#: XML of other kinds that passes.
FINE_KINDS = (
    ("snapshot", "<domainsnapshot/>"),
    (
        "snapshot",
        "<domainsnapshot><name>s1</name><description>before /etc</description><memory snapshot='no'/>"
        "<disks><disk name='vda' snapshot='internal'/></disks></domainsnapshot>",
    ),
    (
        "checkpoint",
        "<domaincheckpoint><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>",
    ),
    ("backup", "<domainbackup/>"),
    ("backup", "<domainbackup mode='push'><disks><disk name='vda' backup='yes'/></disks></domainbackup>"),
    (
        "volume",
        "<volume><name>a.qcow2</name><capacity unit='G'>1</capacity><target><format type='qcow2'/>"
        "</target></volume>",
    ),
    (
        "volume",
        "<volume><name>a</name><capacity>1</capacity><backingStore><path>/srv/images/base</path>"
        "<format type='qcow2'/></backingStore></volume>",
    ),
    ("pool", "<pool type='dir'><name>p</name><target><path>/srv/images/p</path></target></pool>"),
    (
        "network",
        "<network><name>n</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/>"
        "<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.9'/>"
        "</dhcp></ip></network>",
    ),
    ("network", "<network><name>n</name></network>"),
    ("cpu", "<cpu mode='custom'><model>qemu64</model><feature name='x'/></cpu>"),
    ("detached", "<hostdev mode='subsystem' type='pci'><source/></hostdev>"),
    ("disk", f"<disk type='volume'><source pool='iso' volume='a'/>{TARGET}</disk>"),
)
#: The same for XML that is refused.
HOSTILE_KINDS = (
    ("snapshot", "<domainsnapshot><memory snapshot='external' file='/x'/></domainsnapshot>"),
    ("snapshot", "<domainsnapshot><memory file='/x'/></domainsnapshot>"),
    (
        "snapshot",
        "<domainsnapshot><disks><disk name='vda' snapshot='external'/></disks></domainsnapshot>",
    ),
    ("snapshot", "<domainsnapshot><disks><disk name='vda'/></disks></domainsnapshot>"),
    (
        "snapshot",
        "<domainsnapshot><disks><disk name='vda' snapshot='internal'><source file='/x'/></disk></disks>"
        "</domainsnapshot>",
    ),
    ("snapshot", f"<domainsnapshot>{domain('')}</domainsnapshot>"),
    ("snapshot", f"<domainsnapshot><inactiveDomain>{domain('')}</inactiveDomain></domainsnapshot>"),
    ("snapshot", "<domainsnapshot><name>../x</name></domainsnapshot>"),
    ("snapshot", "<domainsnapshot><cookie/></domainsnapshot>"),
    ("snapshot", "<domaincheckpoint/>"),
    ("checkpoint", f"<domaincheckpoint>{domain('')}</domaincheckpoint>"),
    ("checkpoint", "<domaincheckpoint><parent/></domaincheckpoint>"),
    ("backup", "<domainbackup mode='pull'/>"),
    ("backup", "<domainbackup mode='push'><server transport='unix' socket='/s'/></domainbackup>"),
    (
        "backup",
        "<domainbackup><disks><disk name='vda' type='file'><target file='/etc/shadow'/></disk></disks>"
        "</domainbackup>",
    ),
    (
        "backup",
        "<domainbackup><disks><disk name='vda' type='block'><target dev='/dev/sda'/></disk></disks>"
        "</domainbackup>",
    ),
    (
        "backup",
        "<domainbackup><disks><disk name='vda'><scratch file='/x'/></disk></disks></domainbackup>",
    ),
    ("volume", "<volume><backingStore><path>/etc/shadow</path></backingStore></volume>"),
    ("volume", "<volume><backingStore><path>/srv/images/../x</path></backingStore></volume>"),
    ("volume", "<volume><target><path>/etc/shadow</path></target></volume>"),
    ("volume", "<volume><target><encryption format='luks'/></target></volume>"),
    ("volume", "<volume><target><permissions><mode>04777</mode></permissions></target></volume>"),
    ("volume", "<volume><target><permissions><label>x</label></permissions></target></volume>"),
    ("volume", "<volume><name>../x</name></volume>"),
    ("volume", "<volume><name>a/b</name></volume>"),
    ("volume", "<volume><target><format type='vmdk'/></target></volume>"),
    ("pool", "<pool type='dir'><target><path>/etc</path></target></pool>"),
    ("pool", "<pool type='dir'><target><path>/srv/images/p</path><permissions/></target></pool>"),
    ("pool", "<pool type='fs'><source><device path='/dev/sda1'/></source></pool>"),
    ("pool", "<pool type='netfs'><source><host name='x.invalid'/></source></pool>"),
    ("pool", "<pool type='disk'/>"),
    ("pool", "<pool type='logical'/>"),
    ("pool", "<pool type='iscsi'/>"),
    ("pool", "<pool/>"),
    ("pool", "<pool type='dir'><source><dir path='/etc'/></source></pool>"),
    ("network", "<network><forward mode='bridge'/><bridge name='br0'/></network>"),
    ("network", "<network><bridge name='br0'/></network>"),
    ("network", "<network><forward mode='nat' dev='eth0'/></network>"),
    ("network", "<network><forward mode='route'/></network>"),
    ("network", "<network><forward mode='hostdev'/></network>"),
    ("network", "<network><forward mode='passthrough'><interface dev='eth0'/></forward></network>"),
    ("network", "<network><forward/></network>"),
    ("network", "<network><ip address='192.0.2.1'><tftp root='/etc'/></ip></network>"),
    ("network", "<network><ip address='192.0.2.1'><dhcp><bootp file='x'/></dhcp></ip></network>"),
    ("network", "<network><dns><forwarder addr='192.0.2.1'/></dns></network>"),
    (
        "network",
        "<network><options xmlns='http://libvirt.org/schemas/network/dnsmasq/1.0'>"
        "<option value='dhcp-script=/bin/sh'/></options></network>",
    ),
    ("network", "<network><virtualport type='openvswitch'/></network>"),
    ("network", "<network><route address='0.0.0.0' gateway='192.0.2.1'/></network>"),
    ("cpu", "<domain/>"),
    ("cpu", "<x:cpu xmlns:x='x'/>"),
    ("detached", "<emulator>/bin/sh</emulator>"),
    ("detached", domain("")),
    ("device", domain("")),
    ("device", "<emulator>/usr/bin/qemu-system-x86_64</emulator>"),
    ("disk", "<interface type='network'><source network='alice'/></interface>"),
    ("disk", f"<disk type='file'><source file='/etc/shadow'/>{TARGET}</disk>"),
    ("domain", "<domainsnapshot/>"),
)
