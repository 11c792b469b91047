"""What a tenant's XML may hold: all of it, for what does not stand here is refused.

A line is an element, those below it its children. Behind its name come its attributes, ``!`` for those it
must have, with the values they may have: ``a|b``, or ``@check``; without either plain words. ``:`` is for its
own text, ``#check`` looks at the whole element, ``**`` lets everything below pass, ``&group`` stands for the
lines of that group, and ``a|b`` as a name for the same line under each of these names. Elements of one name
may stand in several lines; the first whose attributes fit counts.

Nothing here names a file, a device or an address of the host, unless a check of :mod:`gateway.rpc.xml_guard`
says so. Source: libvirt, formatdomain, formatsnapshot, formatstorage, formatnetwork.
"""

from __future__ import annotations

RULES = """
= domain
domain type!=kvm|qemu|test|hvf id=@number
  name :@name
  uuid :@uuid
  genid :@uuid
  title|description :@text
  metadata **
  memory unit dumpCore=on|off :@number
  currentMemory unit :@number
  maxMemory unit slots=@number :@number
  vcpu placement=static current=@number :@number
  vcpus
    vcpu id=@number enabled=yes|no hotpluggable=yes|no order=@number
  iothreads :@small
  iothreadids
    iothread id=@small
  os firmware=efi|bios
    type arch machine :hvm
    firmware
      feature enabled=yes|no name
    boot dev=fd|hd|cdrom|network
    bootmenu enable=yes|no timeout=@number
    bios useserial=yes|no rebootTimeout=@number
    smbios mode=emulate|sysinfo
  sysinfo type!=smbios
    bios|system|baseBoard|chassis
      entry name :@text
    oemStrings
      entry :@text
  features
    acpi|pae|viridian
    apic eoi=on|off
    hap|vmport|pmu|smm|vmcoreinfo|htm|ccf-assist state=on|off
    gic version
    ioapic driver=kvm|qemu
    kvm
      hidden|hint-dedicated|poll-control|pv-ipi state=on|off
    hyperv mode=custom|passthrough
      relaxed|vapic|vpindex|runtime|synic|reset|frequencies|reenlightenment state=on|off
      tlbflush|ipi|evmcs|avic state=on|off
      spinlocks state=on|off retries=@number
      stimer state=on|off
        direct state=on|off
      vendor_id state=on|off value
  cpu mode=custom|host-model|host-passthrough|maximum match check migratable=on|off
    model fallback=allow|forbid vendor_id :@plain
    vendor :@plain
    topology sockets=@number dies=@number clusters=@number cores=@number threads=@number
    cache level=@number mode
    maxphysaddr mode bits=@number limit=@number
    feature policy name
  clock offset adjustment basis start=@number timezone=@zone
    timer name present=yes|no tickpolicy track frequency=@number mode
      catchup threshold=@number slew=@number limit=@number
  on_poweroff|on_reboot|on_crash :destroy|restart|preserve|rename-restart
  pm
    suspend-to-mem|suspend-to-disk enabled=yes|no
  devices
    emulator :@emulator
    &devices

= device
&devices

= disk
&disks

= detached
disk|controller|lease|filesystem|interface|input|sound|video|graphics|hostdev|hub|redirdev|serial **
parallel|console|channel|smartcard|watchdog|memballoon|rng|shmem|tpm|panic|memory|iommu|vsock|audio|crypto **

= cpu
cpu **

= snapshot
domainsnapshot
  name :@name
  description :@text
  memory snapshot!=no|internal
  disks
    disk name! snapshot!=no|internal

= checkpoint
domaincheckpoint
  name :@name
  description :@text
  disks
    disk name! checkpoint=no|bitmap bitmap

= backup
domainbackup mode=push
  incremental :@plain
  disks
    disk name! backup=yes|no type=file backupmode=full|incremental incremental
      driver type=raw|qcow2

= volume
volume type=file|block
  name :@name
  capacity|allocation|physical unit :@number
  source
  target
    path :@path
    format type=raw|qcow2|iso
    compat :@plain
    nocow
    clusterSize unit :@number
    features
      lazy_refcounts|extended_l2
  backingStore
    path :@file
    format type=raw|qcow2

= pool
pool type!=dir
  name :@name
  uuid :@uuid
  capacity|allocation|available unit :@number
  source
  target
    path :@path

= network
network
  name :@name
  uuid :@uuid
  title|description :@text
  metadata **
  forward mode!=nat
    nat
      port start=@number end=@number
  bridge name=@bridge stp=on|off delay=@number
  mac address=@mac
  mtu size=@number
  domain name localOnly=yes|no
  dns enable=yes|no
    host ip
      hostname :@plain
  ip address netmask prefix=@number family=ipv4|ipv6
    dhcp
      range start end
      host mac=@mac name ip

%place
address type domain bus slot function multifunction=on|off controller target unit port iobase irq reg base
alias name
acpi index=@number

%virtio
driver iommu=on|off ats=on|off packed=on|off page_per_vq=on|off

%disk
driver name=qemu type=raw|qcow2 &tuning
backingStore
target dev! bus tray=open|closed removable=on|off rotation_rate=@number
readonly
serial|wwn|vendor|product :@plain
boot order=@number
blockio logical_block_size=@number physical_block_size=@number
&place

%disks
disk type!=volume device=disk|cdrom|floppy snapshot=no|internal model
  source pool! volume!=@volume index=@number #volume
  &disk
disk type!=file device=disk|cdrom|floppy snapshot=no|internal model
  source file!=@file index=@number
  &disk
disk type!=block device=disk|cdrom snapshot=no|internal model
  source dev!=@device index=@number
  &disk
disk type!=network device=disk|cdrom snapshot=no|internal model
  source protocol! name=@text index=@number #remote
    host name! port=@number transport=tcp
  &disk

%nic
mac address=@mac type=static|generated check=yes|no
model type
driver name=qemu|vhost &tuning
link state=up|down
mtu size=@number
filterref filter
  parameter name value
target dev=@vnet
boot order=@number
rom enabled=yes|no bar=on|off
&place

%listen
listen type!=address address=@loopback
listen type!=none
listen type!=socket

%line
target type port=@number
  model name
&place

%devices
&disks
controller type=ide|fdc|scsi|sata|usb|ccid|virtio-serial|pci index=@number model ports=@number vectors=@number
  driver &tuning
  master startport=@number
  model name
  target chassisNr chassis port busNr index hotplug=on|off
  pcihole64 unit :@number
  &place
interface type!=network trustGuestRxFilters=no
  source network!=@network portgroup
  &nic
interface type!=user #user_network
  &nic
serial|console|parallel type=pty|null
  &line
channel type!=unix
  source mode=bind
  target type!=virtio name!
  &place
channel type!=pty|spicevmc|null
  target type!=virtio name
  &place
channel type!=spiceport
  source channel!
  target type!=virtio name
  &place
graphics type!=vnc &screen websocket=@number sharePolicy
  &listen
graphics type!=spice &screen tlsPort=@number defaultMode
  &listen
  channel name mode
  image|jpeg|zlib|playback compression
  streaming|mouse mode
  clipboard copypaste=yes|no
  filetransfer enable=yes|no
  gl enable=no
input type!=tablet|mouse|keyboard bus model
  &virtio
  &place
hub type=usb
  &place
sound model
  codec type
  audio id=@number
  &place
audio id=@number type!=none|spice
video
  model type vram=@number vram64=@number vgamem=@number ram=@number heads=@number primary=yes|no blob=on|off
    acceleration accel3d=no accel2d=yes|no
    resolution x=@number y=@number
  driver name=qemu iommu=on|off ats=on|off packed=on|off
  &place
memballoon model autodeflate=on|off freePageReporting=on|off
  stats period=@number
  &virtio
  &place
watchdog model action=reset|shutdown|poweroff|pause|none|inject-nmi
  &place
rng model=virtio|virtio-transitional|virtio-non-transitional
  rate bytes=@number period=@number
  backend model!=random :@entropy
  backend model!=builtin
  &virtio
  &place
panic model
  &place
redirdev bus=usb type!=spicevmc
  boot order=@number
  &place
smartcard mode!=passthrough type!=spicevmc
  &place
"""

#: Attributes that several elements share.
ATTRIBUTES = {
    "&tuning": "cache io=threads|native|io_uring discard error_policy rerror_policy iothread=@small "
    "queues=@number queue_size=@number ioeventfd=on|off event_idx=on|off copy_on_read=on|off detect_zeroes "
    "packed=on|off page_per_vq=on|off ats=on|off iommu=on|off cmd_per_lun=@number max_sectors=@number "
    "txmode=iothread|timer rx_queue_size=@number tx_queue_size=@number rss=on|off",
    "&screen": "port=@port autoport=yes|no keymap passwd=@text passwdValidTo connected listen=@loopback",
}
