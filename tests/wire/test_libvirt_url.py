"""URLs of libvirt, as their users write them."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gateway.wire.gnutls_priority import Priority, parse_priority
from gateway.wire.libvirt_url import LONGEST, TRANSPORTS, LibvirtUrl, parse_url

#: URL, transport, server, port, and the name of the open call.
EXAMPLES = [
    ("xen://server/", "tls", "server", 16514, "xen:///"),
    ("xend://server/", "tls", "server", 16514, "xend:///"),
    ("xend+tls://server/?no_verify=1", "tls", "server", 16514, "xend:///"),
    ("qemud+unix:///session", "unix", "localhost", 0, "qemud:///session"),
    ("qemu+unix:///session", "unix", "localhost", 0, "qemu:///session"),
    ("qemu+unix:///system?socket=/run/x.sock", "unix", "localhost", 0, "qemu:///system"),
    ("qemu+tcp://server:5000/session", "tcp", "server", 5000, "qemu:///session"),
    ("qemu+ssh://bob@server:2222/system?no_tty=1", "ssh", "server", 2222, "qemu:///system"),
    ("xend+ssh://bob@server", "ssh", "server", 22, "xend://"),
    ("xen+ext:///?command=/usr/bin/my_script", "ext", "localhost", 0, "xen:///"),
    ("test+tls://[::1]:17000/default", "tls", "::1", 17000, "test:///default"),
    ("test+tcp://h/default?name=qemu:///session", "tcp", "h", 16509, "qemu:///session"),
    ("test+tcp://h/default?bogus=1", "tcp", "h", 16509, "test:///default"),
    ("remote+tls://h/", "tls", "h", 16514, ""),
    ("remote://h/system", "tls", "h", 16514, ""),
    ("test+libssh2://h/default", "ssh", "h", 22, "test:///default"),
    ("test+LIBSSH://h/default", "ssh", "h", 22, "test:///default"),
    ("TEST+SSH://h/default", "ssh", "h", 22, "TEST:///default"),
    ("test+tcp:///default", "tcp", "localhost", 16509, "test:///default"),
    ("test+tcp://:17000/default", "tcp", "localhost", 17000, "test:///default"),
    ("test+tcp://h:/default", "tcp", "h", 16509, "test:///default"),
    ("test:///default", "unix", "localhost", 0, "test:///default"),
    ("test:///srv/a%20node.xml", "unix", "localhost", 0, "test:///srv/a%20node.xml"),
    ("esx+tcp://h/a;b+c?x=1#part", "tcp", "h", 16509, "esx:///a;b%2Bc#part"),
]

#: URL, and what is said about it.
BAD = [
    ("qemu+unix://h/system", "using unix socket and remote server 'h' is not supported."),
    (
        "qemu+telnet://h/",
        "transport in URL not recognised (should be tls|unix|ssh|ext|tcp|libssh2|libssh)",
    ),
    ("qemu+://h/", "transport in URL not recognised (should be tls|unix|ssh|ext|tcp|libssh2|libssh)"),
    ("qemu+tls+ssh://h/", "transport in URL not recognised (should be tls|unix|ssh|ext|tcp|libssh2|libssh)"),
    ("xen+ext:///", "for 'ext' transport, command is required"),
    ("xen+ext:///?command=", "for 'ext' transport, command is required"),
    ("xen+tls://h/?no_verify=yes", "Failed to parse value of URI component no_verify"),
    ("xen+tls://h/?No_Verify=", "Failed to parse value of URI component no_verify"),
    ("xen+tls://h/?no_verify", "Failed to parse value of URI component no_verify"),
    ("xen+tls://h/?no_tty=0x1", "Failed to parse value of URI component no_tty"),
    ("xen+tls://h/?no_sanity=1+", "Failed to parse value of URI component no_sanity"),
    ("server/path", "missing scheme in URL: write driver+transport://server/path"),
    ("xen:/server", "missing scheme in URL: write driver+transport://server/path"),
    ("", "missing scheme in URL: write driver+transport://server/path"),
]

MORE_BAD = [
    "+tls://h/",
    "1xen://h/",
    "xen://h:65536/",
    "xen://h:0/",
    "xen://h:-1/",
    "xen://h:1:2/",
    "xen://h:５/",
    "xen://::1/",
    "xen://[::1/",
    "xen://[::1]x/",
    "xen://[fe80::1%25eth0]/",
    "xen://[fe80::1%eth0]/",
    "xen://[127.0.0.1]/",
    "xen://-oProxyCommand=x/",
    "xen+ssh://-oProxyCommand=x/",
    "xen+ssh://-l@h/",
    "xen+ssh://%2Dl@h/",
    "xen+ssh://a@b@h/",
    "xen+ssh://bob:secret@h/",
    "xen+ssh://bob%3Asecret@h/",
    "xen://a b/",
    "xen://h/\n",
    "xen://h/%00",
    "xen://h/?socket=/a%0Ab",
    "xen://h/%zz",
    "xen://h/%",
    "xen://h/%ff",
    "xen://h/é",
    "xen://h/?proxy=telnet",
    "xen://h/?sshauth=agent,none",
    "xen://h/?sshauth=agent,",
    "xen://h/?known_hosts_verify=no",
    "xen://h/?mode=direct",
    "xen+ssh://h/?mode=direct",
    "xen+ssh://h/?netcat=/bin/nc&proxy=native",
    "xen://h/?tls_priority=NORMAL:-VERS-ALL",
    "xen+ssh://h/?netcat=nc",
    "xen+ssh://h/?socket=run/s",
    "xen+ssh://h/?socket=/run/%24(id)",
    "xen+libssh://h/?socket=/run/s%3Bid",
    "xen://h/" + "p" * LONGEST,
]


class ParseTest(SynchronousTestCase):
    """Reading."""

    def test_examples(self) -> None:
        """The examples of the design and of libvirt's own pages read as they do there."""
        for text, transport, server, port, name in EXAMPLES:
            url = parse_url(text)
            found = (url.transport, url.server, url.server_port, url.name)
            self.assertEqual(found, (transport, server, port, name), text)
            self.assertEqual(parse_url(str(url)), url, text)

    def test_refused(self) -> None:
        """Each mistake is told in libvirt's own words."""
        for text, said in BAD:
            with self.assertRaises(ValueError, msg=text) as caught:
                parse_url(text)
            self.assertEqual(str(caught.exception), said, text)
        for text in MORE_BAD:
            with self.assertRaises(ValueError, msg=text) as caught:
                parse_url(text)
            self.assertIs(type(caught.exception), ValueError, text)
            self.assertNotIn("secret", str(caught.exception))

    def test_every_variable(self) -> None:
        """Every variable of libvirt is known, by any case of its name."""
        query = (
            "NAME=a:///b&command=/bin/c&socket=/s&netcat=/n&No_Verify=1&keyfile=/k&no_tty=-1&pkipath=/p"
            "&tls_priority=NORMAL&no_sanity=01&verify_address=1&proxy=auto&mode=legacy&known_hosts=/kh"
            "&known_hosts_verify=ignore&sshauth=privkey,agent&auth=sasl.PLAIN&authfile=/a"
        )
        url = parse_url(f"qemu+ssh://u@h:1/system?{query}")
        whole = LibvirtUrl(
            driver="qemu",
            transport="ssh",
            user="u",
            host="h",
            port=1,
            path="/system",
            open_name="a:///b",
            command="/bin/c",
            socket="/s",
            netcat="/n",
            no_verify=True,
            keyfile="/k",
            no_tty=True,
            pkipath="/p",
            tls_priority="NORMAL",
            no_sanity=True,
            verify_address=True,
            proxy="auto",
            mode="legacy",
            known_hosts="/kh",
            known_hosts_verify="ignore",
            sshauth=("privkey", "agent"),
            auth="sasl.PLAIN",
            authfile="/a",
        )
        self.assertEqual(url, whole)
        self.assertEqual((url.warnings, url.name), ((), "a:///b"))
        self.assertEqual(parse_url(str(url)), url)

    def test_variables(self) -> None:
        """The last one wins, ``;`` parts them too, what has no name is nothing, and zero is no."""
        url = parse_url("a+unix:///?socket=/1;;socket=/2&=x&&no_tty=1&no_tty=0;name=")
        self.assertEqual((url.socket, url.no_tty, url.open_name), ("/2", False, ""))
        self.assertEqual((url.unknown, url.name), ((), ""))

    def test_plus(self) -> None:
        """A plus in a value is a space; both are written so that nobody takes them for something else."""
        url = parse_url("xen+ext:///a+b?command=/my+dir/a%2Bb%26c%3d%25")
        self.assertEqual(url.command, "/my dir/a+b&c=%")
        self.assertEqual(str(url), "xen+ext:///a%2Bb?command=/my%20dir/a%2Bb%26c%3D%25")
        self.assertEqual(url.name, "xen:///a%2Bb")

    def test_warnings(self) -> None:
        """What has no effect is told, and does not travel."""
        url = parse_url("test+ext://u@h:7/default?Bogus=1+2&command=/x&a")
        self.assertEqual(url.unknown, (("Bogus", "1 2"), ("a", "")))
        self.assertEqual(url.name, "test:///default")
        self.assertEqual(
            url.warnings,
            (
                "the variable 'Bogus' is unknown and ignored",
                "the variable 'a' is unknown and ignored",
                "a port means nothing to the transport ext",
                "a user means nothing to the transport ext",
            ),
        )
        url = parse_url("test://h/?tls_priority=NORMAL:%25COMPAT:-VERS-TLS1.3")
        self.assertEqual(url.warnings, ("'%COMPAT' of tls_priority is ignored",))

    def test_local(self) -> None:
        """Neither transport nor host: a URL of this machine, which stays one."""
        url = parse_url("qemu:///system")
        self.assertEqual((url.remote, url.transport, str(url)), (False, "unix", "qemu:///system"))
        self.assertTrue(parse_url("qemu+unix:///system").remote)

    def test_priority(self) -> None:
        """Priority strings: versions and strength are understood, the rest is named."""
        for text, versions, strong, ignored in [
            ("NORMAL", ("1.2", "1.3"), False, ()),
            ("@LIBVIRT,SYSTEM", ("1.2", "1.3"), False, ()),
            ("NORMAL:-VERS-TLS1.3", ("1.2",), False, ()),
            ("SECURE256:!VERS-TLS1.2", ("1.3",), True, ()),
            ("NORMAL:-VERS-ALL:+VERS-TLS1.3", ("1.3",), False, ()),
            ("NORMAL:-VERS-TLS1.0:+AES-256-CBC", ("1.2", "1.3"), False, ("+AES-256-CBC",)),
            ("NORMAL:%SERVER_PRECEDENCE:what", ("1.2", "1.3"), False, ("%SERVER_PRECEDENCE", "what")),
        ]:
            self.assertEqual(parse_priority(text), Priority(versions, strong, ignored), text)
        self.assertRaises(ValueError, parse_priority, "NORMAL:-VERS-TLS-ALL:+VERS-TLS1.1")


_plain = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)
_names = st.from_regex(r"[A-Za-z][A-Za-z0-9.-]{0,8}", fullmatch=True)
_hosts = st.one_of(
    st.just(""),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,12}", fullmatch=True),
    st.ip_addresses().map(str).filter(lambda it: "%" not in it),
)
_KNOWN = {"name", "command", "socket", "netcat", "no_verify", "keyfile", "no_tty", "pkipath", "tls_priority"}
_KNOWN |= {"no_sanity", "verify_address", "proxy", "mode", "known_hosts", "known_hosts_verify", "sshauth"}
_KNOWN |= {"auth", "authfile"}


@st.composite
def _urls(draw: Any) -> LibvirtUrl:
    remote = draw(st.booleans())
    transport = draw(st.sampled_from(sorted(set(TRANSPORTS.values())))) if remote else "unix"
    there = st.sampled_from(["", "/a/b-c.d"]) if transport == "ssh" else _plain
    proxy = draw(st.sampled_from(["", "auto", "netcat", "native"]))
    unknown = st.tuples(_plain.filter(lambda it: it and it.lower() not in _KNOWN), _plain)
    return LibvirtUrl(
        driver=draw(_names),
        transport=transport,
        remote=remote,
        user=draw(_plain.filter(lambda it: ":" not in it and not it.startswith("-"))),
        host="" if transport == "unix" else draw(_hosts),
        port=draw(st.none() | st.integers(1, 65535)),
        path=draw(st.just("") | _plain.map(lambda it: "/" + it)),
        fragment=draw(_plain),
        open_name=draw(st.none() | _plain),
        command=draw(_plain.filter(bool)),
        socket=draw(there),
        netcat="" if proxy == "native" else draw(there),
        no_verify=draw(st.booleans()),
        keyfile=draw(_plain),
        no_tty=draw(st.booleans()),
        pkipath=draw(_plain),
        tls_priority=draw(st.sampled_from(["", "NORMAL", "SECURE256:-VERS-TLS1.2"])),
        no_sanity=draw(st.booleans()),
        verify_address=draw(st.booleans()),
        proxy=proxy,
        mode=draw(st.sampled_from(["", "auto", "legacy"])),
        known_hosts=draw(_plain),
        known_hosts_verify=draw(st.sampled_from(["", "normal", "auto", "ignore"])),
        sshauth=tuple(draw(st.permutations(["agent", "privkey", "password"])))[: draw(st.integers(0, 3))],
        auth=draw(_plain),
        authfile=draw(_plain),
        unknown=tuple(draw(st.lists(unknown, max_size=2))),
    )


class PropertyTest(SynchronousTestCase):
    """What holds for all of them."""

    @settings(max_examples=150, deadline=None)
    @given(_urls())
    def test_round_trip(self, url: LibvirtUrl) -> None:
        """What is written reads back as the same, in characters that need no second reading."""
        text = str(url)
        self.assertEqual(parse_url(text), url)
        self.assertRegex(text, r"\A[!-~]*\Z")
        self.assertNotIn("+", text.partition("://")[2])

    @settings(max_examples=400, deadline=None)
    @given(
        st.text(max_size=60)
        | st.text("atlsunixe+:/?#[]@&;=%2Bfno_verify1.-:0 ", max_size=60)
        | st.tuples(st.sampled_from(EXAMPLES), st.text(max_size=4), st.integers(0, 40)).map(
            lambda it: it[0][0][: it[2]] + it[1] + it[0][0][it[2] :]
        )
    )
    def test_fuzz(self, text: str) -> None:
        """Whatever is read is a URL that survives, or is refused by a ValueError of one short line."""
        try:
            url = parse_url(text)
        except ValueError as error:
            self.assertIs(type(error), ValueError)
            self.assertLess(len(str(error)), 200)
            return
        self.assertEqual(parse_url(str(url)), url)
        self.assertEqual(evolve(url), url)
