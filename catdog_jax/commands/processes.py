"""A command in several processes: how they find each other, and that they end together.

JAX notices a dead process only by its heartbeat, or never (a process that raises an error waits for
the others to end). So each process keeps a connection to process 0: when one ends before it has
said that it is done, all the others end, each with one line.
"""

import contextlib
import importlib.util
import os
import secrets
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ..errors import InputError, first_line

_DONE = -1
_QUIET_SECONDS = 10
_JOIN_SECONDS = 300
_CONNECT_SECONDS = 10
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # noticed after 30 s
_LAST_WORDS_SECONDS = 5

_Place: TypeAlias = tuple[list[str], int, bytes]
"""Addresses and port of process 0, and what a process must say that connects to it."""

_ties: "_Ties | None" = None


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the other processes, if options or the cluster say that there are any.

    Call it before JAX starts. `jax.distributed` knows SLURM, Open MPI, Kubernetes and Cloud TPUs.

    Args:
        coordinator: host and port of process 0, the same for all.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        InputError: the three do not fit each other, or the processes did not find each other.
    """
    given = coordinator, processes, process
    if given == (None, None, None) and not _is_in_cluster():
        return
    _check(coordinator, processes, process)
    if coordinator is not None:
        _check_address(coordinator, is_here=process == 0)
    import jax

    # It would catch SIGTERM, which is to end the process.
    jax.config.update("jax_enable_preemption_service", False)
    timers = [
        threading.Timer(_QUIET_SECONDS, _say_that_it_waits),
        threading.Timer(_JOIN_SECONDS, _give_up, args=(coordinator,)),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=2 * _JOIN_SECONDS
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"the processes did not find each other ({first_line(error)[:200]}); start each with "
            "--coordinator HOST:PORT (of process 0), --processes N and --process K"
        ) from error
    finally:
        for timer in timers:
            timer.cancel()


def tie_together() -> None:
    """After `join` and the start of JAX: watch over the other processes; quiet, but the first."""
    import jax

    from ..training.hosts import from_first

    global _ties
    if jax.process_count() > 1:
        _only_first_speaks(jax.process_index())
        _ties = _Ties(jax.process_index(), jax.process_count(), from_first)


def _only_first_speaks(process: int) -> None:
    """Leave stdout to the Python of process 0; Gloo, which connects CPUs, says so there."""
    sys.stdout.flush()
    if process == 0:
        now = sys.stdout
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=now.encoding, errors=now.errors)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def leaving(command: Callable[[], int]) -> int:
    """Call `command`, which returns an exit code, and end together with the other processes."""
    try:
        code = command()
    except Exception:
        if _ties is None:
            raise
        # Most likely another process died in the middle of a sum: that is the line to see.
        _ties.ended.wait(_LAST_WORDS_SECONDS)
        traceback.print_exc()
        code = 1
    if _ties is not None:
        _ties.leave(code)
    return code


def _is_in_cluster() -> bool:
    """Whether this was started as one of several processes, or on a Cloud TPU."""

    def installed(package: str) -> bool:
        return importlib.util.find_spec(package) is not None

    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(os.environ.get(name, "1")) > 1 for name in counts):
        return True
    if "JOB_COMPLETION_INDEX" in os.environ and installed("kubernetes"):  # an Indexed Job
        return True
    on_tpu = any(Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))
    return on_tpu and installed("libtpu") and os.environ.get("JAX_PLATFORMS", "tpu")[:3] == "tpu"


def _say_that_it_waits() -> None:
    print(
        f"waiting for the other processes, at most {_JOIN_SECONDS} s", file=sys.stderr, flush=True
    )


def _give_up(coordinator: str | None) -> None:
    """End with one line, where JAX would end the process with many."""
    print(
        f"error: not all processes came together{f' at {coordinator}' if coordinator else ''} in "
        f"{_JOIN_SECONDS} s; start all of them, and see whether that host and port can be reached",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    host, _, port = (coordinator or "localhost:1").rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator must be HOST:PORT, not {coordinator}")
    if processes is not None and processes < 1:
        raise InputError(f"--processes must be 1 or more, not {processes}")
    if process is not None and not 0 <= process < (processes or process + 1):
        raise InputError(
            f"--process must be from 0 to {(processes or 1) - 1}, the last one, not {process}"
        )


def _check_address(coordinator: str, *, is_here: bool) -> None:
    """Refuse what would make JAX crash (a port in use) or wait (no such host)."""
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise InputError(f"--coordinator: there is no host {host} ({first_line(error)})") from error
    if is_here:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise InputError(
                f"--coordinator: process 0 cannot use port {port} ({first_line(error)}); is "
                "another process 0 running here? Else choose another port"
            ) from error


class _Ties:
    """Connections between process 0 and each of the others."""

    def __init__(
        self, me: int, count: int, from_first: Callable[[Callable[[], _Place]], _Place]
    ) -> None:
        """Process `me` of `count`; `from_first` is that of `training.hosts`."""
        self.ended = threading.Event()
        """All others are done (for process 0), or process 0 is."""
        self._me, self._count = me, count
        if me == 0:
            with socket.create_server(("", 0)) as server:
                place = _own_addresses(), server.getsockname()[1], secrets.token_bytes(16)
                from_first(lambda: place)
                self._peers = self._accept(server, place[2])
        else:
            self._peers = {0: self._connect(*from_first(lambda: ([], 0, b"")))}
        self._left = set(self._peers)
        for index, peer in self._peers.items():
            peer.settimeout(None)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):  # not on macOS
                    peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            threading.Thread(target=self._watch, args=(index, peer), daemon=True).start()

    def leave(self, code: int) -> None:
        """End together: wait for the others, or end them by ending at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        if code:
            os._exit(code)  # at a normal end JAX would wait for the others
        if self._me == 0:
            self.ended.wait()
            self._tell(_DONE)
        else:
            self._tell(_DONE)
            self.ended.wait()

    def _tell(self, message: int) -> None:
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.sendall(struct.pack("!i", message))

    def _watch(self, index: int, peer: socket.socket) -> None:
        said = b""
        with contextlib.suppress(OSError):
            said = peer.recv(4)
        message = struct.unpack("!i", said)[0] if len(said) == 4 else index
        if message == _DONE:
            self._left.discard(index)
            if not self._left:
                self.ended.set()
            return
        if self._me == 0:
            self._tell(message)
        print(
            f"error: process {self._me} ends because process {message} of {self._count} has ended; "
            "saved epochs are kept: start all processes again with the same command to continue",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    def _accept(self, server: socket.socket, token: bytes) -> dict[int, socket.socket]:
        peers: dict[int, socket.socket] = {}
        server.settimeout(6 * _CONNECT_SECONDS)
        while len(peers) < self._count - 1:
            try:
                peer, _ = server.accept()
                peer.settimeout(_CONNECT_SECONDS)
                said = peer.recv(len(token) + 4, socket.MSG_WAITALL)
            except OSError as error:
                raise InputError(
                    f"only {len(peers)} of {self._count - 1} processes reached process 0 on port "
                    f"{server.getsockname()[1]} ({first_line(error)}); does a firewall keep them?"
                ) from error
            if secrets.compare_digest(said[:-4], token):
                peer.sendall(token)
                peers[struct.unpack("!i", said[-4:])[0]] = peer
        return peers

    def _connect(self, addresses: list[str], port: int, token: bytes) -> socket.socket:
        for address in addresses:
            with contextlib.suppress(OSError):
                peer = socket.create_connection((address, port), _CONNECT_SECONDS)
                peer.sendall(token + struct.pack("!i", self._me))
                if peer.recv(len(token), socket.MSG_WAITALL) == token:
                    return peer
        raise InputError(f"process 0 cannot be reached on port {port} of {', '.join(addresses)}")


def _own_addresses() -> list[str]:
    """Under which other hosts may reach this one."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells the address of the way out
        found.append(probe.getsockname()[0])
    return [*found, "localhost"]
