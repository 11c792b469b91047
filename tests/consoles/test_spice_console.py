from __future__ import annotations

from gateway import errors
from gateway.consoles.spice_console import CHANNELS, SpiceChannel
from gateway.wire.spice_link import DISPLAY, INPUTS, MAIN, LinkMessage
from tests.consoles.stage import ID, PEER, Stage, head


class SpiceTests(Stage):
    """A SPICE console is several websockets under one ticket, bound together by the connection id."""

    def setUp(self) -> None:
        super().setUp()
        self.token = "/" + self.sign()
        self.words: dict[str, list[str]] = {}

    def link(
        self, name: str, kind: int, connection: int, *, request: str | None = None, peer: str = PEER
    ) -> SpiceChannel:
        return self.done(self.asked(name, kind, connection, request=request, peer=peer))

    async def asked(
        self, name: str, kind: int, connection: int, *, request: str | None = None, peer: str = PEER
    ) -> SpiceChannel:
        admission = await self.access.admit(head(request or self.token), peer)
        heard = self.words.setdefault(name, [])
        return await self.access.channel(
            admission, LinkMessage(connection, kind, 0), target="t", ended=heard.append
        )

    def main(self, connection: int = 77, **more: str) -> SpiceChannel:
        main = self.link("main", MAIN, 0, **more)
        main.bind(connection)
        return main

    def test_channels(self) -> None:
        """Four and more channels, one use, one session."""
        main = self.main()
        channels = [self.link(str(kind), kind, 77) for kind in (2, 3, 4, 5, 9)]
        self.assertEqual({id(channel.session) for channel in channels}, {id(main.session)})
        self.assertEqual(len(self.sessions), 1)

    def test_foreign(self) -> None:
        """A channel of another session, of none, or before the id is known, is refused."""
        first = self.link("main", MAIN, 0)
        for connection in (0, 77, 1):
            error = self.fails(errors.Forbidden, self.asked("x", DISPLAY, connection))
            self.assertEqual(error.reason, "connection_id")
        first.bind(77)
        self.link("display", DISPLAY, 77)
        for connection in (0, 78, 76, 77 << 8, 0xFFFFFFFF):
            error = self.fails(errors.Forbidden, self.asked("x", DISPLAY, connection))
            self.assertEqual(error.reason, "connection_id")
        self.assertNotIn("x", {name for name, heard in self.words.items() if heard})

    def test_zero(self) -> None:
        """A server that calls its session 0 has no other channels: 0 names no session."""
        self.main(0)
        self.fails(errors.Forbidden, self.asked("x", DISPLAY, 0))

    def test_other_ticket(self) -> None:
        """The right connection id with another ticket, however good that is, opens no channel."""
        self.main()
        self.put()
        for request in ("/" + self.sign(), f"/console/{ID}"):
            self.fails(errors.Forbidden, self.asked("x", DISPLAY, 77, request=request))

    def test_second_main(self) -> None:
        """A one-time ticket opens no second session while the first is up, nor after it."""
        main = self.main()
        self.assertEqual(self.fails(errors.NoTicket, self.asked("x", MAIN, 0)).reason, "used")
        main.leave("done")
        self.assertEqual(self.fails(errors.NoTicket, self.asked("x", MAIN, 0)).reason, "used")
        self.assertEqual(self.fails(errors.NoTicket, self.asked("x", DISPLAY, 77)).reason, "used")

    def test_only_main_binds(self) -> None:
        """What another channel says of the session's id changes nothing."""
        self.main()
        self.link("display", DISPLAY, 77).bind(99)
        self.link("inputs", INPUTS, 77)
        self.fails(errors.Forbidden, self.asked("x", INPUTS, 99))

    def test_after_expiry(self) -> None:
        """A channel that the server adds later joins although the ticket has ended; no new session begins."""
        self.main()
        self.clock.pump([1.0] * 300)
        self.link("late", 9, 77)
        self.assertIsInstance(self.fails(errors.NoTicket, self.asked("x", MAIN, 0)), errors.NoTicket)

    def test_expires(self) -> None:
        """A ticket that the engine installed ends all channels of its console when it expires."""
        self.put(timeout=30)
        self.main(request=f"/console/{ID}")
        self.link("inputs", INPUTS, 77, request=f"/console/{ID}")
        self.done(self.registry.renew(ID, 60))
        self.clock.pump([1.0] * 59)
        self.assertEqual(self.words, {"main": [], "inputs": []})
        self.clock.advance(1)
        self.assertEqual(self.words, {"main": ["expired"], "inputs": ["expired"]})
        self.assertEqual((len(self.sessions), len(self.access._spice._by_key)), (0, 0))

    def test_main_leaves(self) -> None:
        """Without its main channel a console is over: all other channels end, nobody joins."""
        main = self.main()
        display = self.link("display", DISPLAY, 77)
        main.leave("left")
        self.assertEqual((self.words["main"], self.words["display"]), ([], ["left"]))
        self.assertEqual(len(self.sessions), 0)
        display.leave("left")
        self.assertEqual(self.fails(errors.NoTicket, self.asked("x", DISPLAY, 77)).reason, "used")

    def test_other_leaves(self) -> None:
        """Another channel may come and go."""
        self.main()
        self.link("display", DISPLAY, 77).leave("done")
        self.link("display", DISPLAY, 77)
        self.assertEqual((len(self.sessions), self.words["main"]), (1, []))

    def test_revoked(self) -> None:
        """T10: revocation and an operator's kill end every channel, once, with the word."""
        for end, word in ((self._revoke, "revoked"), (self._kill, "killed")):
            self.token, self.words = "/" + self.sign(), {}
            main = self.main()
            self.link("display", DISPLAY, 77)
            end(main)
            self.assertEqual(self.words, {"main": [word], "display": [word]})
            main.leave("closed")
            self.assertEqual(self.words["main"], [word])
            self.fails(errors.NoTicket, self.asked("x", DISPLAY, 77))

    def _revoke(self, main: SpiceChannel) -> None:
        self.done(self.registry.revoke(main.console.ticket_id))

    def _kill(self, main: SpiceChannel) -> None:
        self.sessions.kill(main.session.id)

    def test_failing_channel(self) -> None:
        """One channel that fails to end keeps no other from ending."""
        main = self.main()

        def fail(reason: str) -> None:
            raise RuntimeError(reason)

        admission = self.admit(self.token)
        self.done(self.access.channel(admission, LinkMessage(77, 4, 0), target="t", ended=fail))
        self.link("display", DISPLAY, 77)
        self._revoke(main)
        self.assertEqual(self.words["display"], ["revoked"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_unreached(self) -> None:
        """When the server is out of reach the use is given back; a channel that is, is no more than that."""
        main = self.link("main", MAIN, 0)
        self.done(self.access.unreached(main, "refused"))
        self.assertEqual((len(self.sessions), self.words["main"]), (0, []))
        main = self.main()
        display = self.link("display", DISPLAY, 77)
        self.done(self.access.unreached(display, "refused"))
        self.assertEqual((len(self.sessions), self.words["main"]), (1, []))
        self.link("display", DISPLAY, 77)

    def test_peer(self) -> None:
        """A channel comes from where the ticket says, too."""
        self.put(url="spice://192.0.2.50:5900", peer=PEER, uses=1)
        request = f"/console/{ID}"
        self.main(request=request)
        error = self.fails(errors.NoTicket, self.asked("x", DISPLAY, 77, request=request, peer="192.0.2.9"))
        self.assertIn(error.reason, ("used", "peer"))
        self.link("display", DISPLAY, 77, request=request)

    def test_many_uses(self) -> None:
        """Under a ticket for many uses each session has channels of its own."""
        self.put(url="spice://192.0.2.50:5900")
        request = f"/console/{ID}"
        first, second = self.main(1, request=request), self.main(2, request=request)
        self.assertIs(self.link("a", DISPLAY, 1, request=request).console, first.console)
        self.assertIs(self.link("b", DISPLAY, 2, request=request).console, second.console)
        first.leave("done")
        self.fails(errors.Forbidden, self.asked("x", DISPLAY, 1, request=request))
        self.link("c", INPUTS, 2, request=request)

    def test_view_only(self) -> None:
        """Who may only look has no channels for microphones, cards, disks and ports."""
        self.put(url="spice://192.0.2.50:5900", ops=["view"])
        request = f"/console/{ID}"
        self.main(request=request)
        for kind in (2, 3, 4, 5):
            self.link(str(kind), kind, 77, request=request)
        for kind in (0, 6, 7, 8, 9, 10, 11, 255):
            error = self.fails(errors.Forbidden, self.asked("x", kind, 77, request=request))
            self.assertEqual(error.reason, "view")

    def test_limit(self) -> None:
        """A console has only so many channels."""
        self.main()
        for number in range(CHANNELS - 1):
            self.link(str(number), 9, 77)
        self.assertEqual(self.fails(errors.Unavailable, self.asked("x", 9, 77)).reason, "limit")

    def test_opened_before(self) -> None:
        """A session that was opened before its client turned out to speak SPICE becomes the console's."""
        admission = self.admit(self.token)
        ended: list[str] = []
        session = self.done(self.access.open(admission, target="t", ended=ended.append))
        main = self.done(
            self.access.channel(
                admission, LinkMessage(0, MAIN, 0), target="t", ended=ended.append, session=session
            )
        )
        main.bind(77)
        self.assertIs(self.link("display", DISPLAY, 77).session, session)

    def test_nothing_left(self) -> None:
        """Consoles that failed to open or are over leave nothing behind."""
        slow = self.admit(self.token)
        self.main().leave("done")
        begins = LinkMessage(0, MAIN, 0)
        self.fails(errors.NoTicket, self.access.channel(slow, begins, target="t", ended=self.ended.append))
        self.assertEqual(self.access._spice._by_key, {})
