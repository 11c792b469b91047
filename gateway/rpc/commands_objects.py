"""Commands about snapshots, networks, storage pools and volumes; see :mod:`gateway.rpc.commands`."""

from __future__ import annotations

from gateway.rpc.arguments import (
    FLAGS,
    LIMIT,
    REQUEST,
    SIZE,
    TEXT,
    TIME,
    WORD,
    WORD_OR_NONE,
    XML,
    AmpList,
    Big,
    Boolean,
    DateTime,
    Integer,
)
from gateway.rpc.command import Command, fields

# Snapshots.


class ListSnapshots(Command):
    """A page of the snapshots of a domain."""

    arguments = fields(dom=WORD, flags=FLAGS, cursor=WORD_OR_NONE, limit=LIMIT)
    response = fields(snapshots=AmpList(name=TEXT), cursor=TEXT)


class GetSnapshotXml(Command):
    """A snapshot as libvirt's XML."""

    arguments = fields(dom=WORD, name=WORD, flags=FLAGS)
    response = fields(xml=XML)


class CreateSnapshot(Command):
    """Take a snapshot, by default one whose name libvirt chooses."""

    arguments = fields(dom=WORD, xml=Big(optional=True), flags=FLAGS, request_id=REQUEST)
    response = fields(name=TEXT)
    writes = True


class DeleteSnapshot(Command):
    """Delete a snapshot."""

    arguments = fields(dom=WORD, name=WORD, flags=FLAGS, request_id=REQUEST)
    writes = True


class RevertSnapshot(DeleteSnapshot):
    """Take the domain back to a snapshot."""


# Networks.


class ListNetworks(Command):
    """A page of networks."""

    arguments = fields(handle=WORD, flags=FLAGS, cursor=WORD_OR_NONE, limit=LIMIT)
    response = fields(networks=AmpList(name=TEXT, uuid=TEXT, active=Boolean(), net=TEXT), cursor=TEXT)


class LookupNetwork(Command):
    """A network by exactly one of ``name`` and ``uuid``."""

    arguments = fields(handle=WORD, name=WORD_OR_NONE, uuid=WORD_OR_NONE)
    response = fields(net=TEXT, name=TEXT, uuid=TEXT, active=Boolean())


class GetNetworkXml(Command):
    """A network as libvirt's XML."""

    arguments = fields(net=WORD, flags=FLAGS)
    response = fields(xml=XML)


class GetLeases(Command):
    """Addresses the network gave out, such as ``192.0.2.9/24``; ``expires`` is absent for one without end."""

    arguments = fields(net=WORD, mac=WORD_OR_NONE, flags=FLAGS)
    response = fields(
        leases=AmpList(interface=TEXT, mac=TEXT, address=TEXT, hostname=TEXT, expires=DateTime(optional=True))
    )


class DefineNetwork(Command):
    """Make a network that stays, or change it, without starting it."""

    arguments = fields(handle=WORD, xml=Big(), flags=FLAGS, request_id=REQUEST)
    response = fields(net=TEXT, name=TEXT, uuid=TEXT)
    writes = True


class _NetworkWrite(Command):
    """Does something to a network."""

    arguments = fields(net=WORD, request_id=REQUEST)
    writes = True


class UndefineNetwork(_NetworkWrite):
    """Forget a network."""


class NetworkStart(_NetworkWrite):
    """Start a network."""


class NetworkStop(_NetworkWrite):
    """Stop a network at once."""


# Storage pools.


class ListPools(Command):
    """A page of storage pools."""

    arguments = fields(handle=WORD, flags=FLAGS, cursor=WORD_OR_NONE, limit=LIMIT)
    response = fields(pools=AmpList(name=TEXT, uuid=TEXT, active=Boolean(), pool=TEXT), cursor=TEXT)


class LookupPool(Command):
    """A storage pool by exactly one of ``name`` and ``uuid``."""

    arguments = fields(handle=WORD, name=WORD_OR_NONE, uuid=WORD_OR_NONE)
    response = fields(pool=TEXT, name=TEXT, uuid=TEXT, active=Boolean())


class GetPoolInfo(Command):
    """State as a word, and bytes: in all, used, and free."""

    arguments = fields(pool=WORD)
    response = fields(state=TEXT, capacity=SIZE, allocation=SIZE, available=SIZE)


class GetPoolXml(Command):
    """A pool as libvirt's XML."""

    arguments = fields(pool=WORD, flags=FLAGS)
    response = fields(xml=XML)


class DefinePool(Command):
    """Make a pool that stays, or change it, without starting it."""

    arguments = fields(handle=WORD, xml=Big(), flags=FLAGS, request_id=REQUEST)
    response = fields(pool=TEXT, name=TEXT, uuid=TEXT)
    writes = True


class _PoolWrite(Command):
    """Does something to a pool."""

    arguments = fields(pool=WORD, flags=FLAGS, request_id=REQUEST)
    writes = True


class UndefinePool(_PoolWrite):
    """Forget a pool; what it holds stays."""


class PoolStart(_PoolWrite):
    """Start a pool."""


class PoolStop(_PoolWrite):
    """Stop a pool; what it holds stays."""


class PoolRefresh(_PoolWrite):
    """Have libvirt look again at what the pool holds."""


# Volumes.


class ListVolumes(Command):
    """A page of the volumes of a pool; ``key`` is libvirt's."""

    arguments = fields(pool=WORD, flags=FLAGS, cursor=WORD_OR_NONE, limit=LIMIT)
    response = fields(volumes=AmpList(volume=TEXT, key=TEXT), cursor=TEXT)


class GetVolumeInfo(Command):
    """Type as a word such as ``file``, bytes that it can hold and takes, and its path."""

    arguments = fields(pool=WORD, volume=WORD, flags=FLAGS)
    response = fields(type=TEXT, capacity=SIZE, allocation=SIZE, path=TEXT)


class GetVolumeXml(Command):
    """A volume as libvirt's XML."""

    arguments = fields(pool=WORD, volume=WORD, flags=FLAGS)
    response = fields(xml=XML)


class CreateVolume(Command):
    """Make a volume."""

    arguments = fields(pool=WORD, xml=Big(), flags=FLAGS, request_id=REQUEST)
    response = fields(volume=TEXT, key=TEXT)
    writes = True


class DeleteVolume(Command):
    """Delete a volume, and what it holds."""

    arguments = fields(pool=WORD, volume=WORD, flags=FLAGS, request_id=REQUEST)
    writes = True


class ResizeVolume(Command):
    """Change what a volume can hold, in bytes."""

    arguments = fields(pool=WORD, volume=WORD, capacity=SIZE, flags=FLAGS, request_id=REQUEST)
    writes = True


class VolUpload(Command):
    """A ticket to upload a volume over HTTPS, of ``size`` bytes at most. ``options`` is a JSON object."""

    arguments = fields(
        pool=WORD,
        volume=WORD,
        size=Integer(optional=True, least=0),
        options=Big(optional=True, cap=16 * 1024),
    )
    response = fields(ticket=TEXT, url=TEXT, expires=TIME)
    writes = True


class VolDownload(VolUpload):
    """A ticket to download a volume over HTTPS."""
