"""Workers on two hosts, which are namespaces of this machine that a cable joins: no ssh, and nothing of them is left."""

import shutil
import subprocess
from pathlib import Path

import pytest

from spmd.run.launch import find
from tests.mpi import ROOT, ended, need_mpi

pytestmark = pytest.mark.mpi
APART = ["unshare", "--user", "--map-root-user", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
HOSTS, NETWORK = "10.213.7.1:2,10.213.7.2:2", "10.213.7.0/24"
TRIED = """
sleep 9 &
unshare --net --uts true && ip link add name v0 type veth peer name v1 && nsenter -t $! -n -u true
code=$?
kill $!
exit $code
"""


def need_namespaces() -> None:
    """Skip the test where this machine, or whoever runs it, has none; it is written for Open MPI."""
    need_mpi()
    if find().family != "Open MPI":
        pytest.skip("the test starts Open MPI on two hosts")
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "hostname"))):
        pytest.skip("there is no unshare, nsenter, ip or hostname")
    tried = subprocess.run([*APART, "sh", "-c", TRIED], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces are not permitted: {tried.stderr.strip()[-200:]}")


def test_heads_inside_of_a_host_and_the_batch_over_two(tmp_path: Path) -> None:
    need_namespaces()
    launcher = find()
    start, *program = launcher.command(4, ["-m", "tests.collectives.hosts_run"])
    options = {"prtemca": {"plm_ssh_agent": f"{tmp_path}/agent", "plm_ssh_no_tree_spawn": "1", "oob_tcp_if_include": NETWORK}}
    options["mca"] = {"pml": "ob1", "btl": "self,sm,tcp", "btl_tcp_if_include": NETWORK}
    words = [word for kind, values in options.items() for name, value in values.items() for word in (f"--{kind}", name, value)]
    hosts = ["sh", str(ROOT / "tests/collectives/two_hosts.sh"), str(tmp_path)]
    exported = ["-x", "PYTHONPATH", "-x", "TVM_NUM_THREADS", "-x", "OPENBLAS_NUM_THREADS"]
    allowed = {f"{name}_ALLOW_RUN_AS_ROOT{more}": "1" for name in ("OMPI", "PRTE") for more in ("", "_CONFIRM")}  # whose name is root there
    # What a run that was killed left in the common folder belongs to the numbers of its processes, which begin with 1 again here.
    environment = {**launcher.environment(4), **allowed, "TMPDIR": str(tmp_path)}
    run = ended([*APART, *hosts, start, "--host", HOSTS, *words, *exported, *program], environment, timeout=280.0)
    for rank, host in enumerate(("host-one", "host-one", "host-two", "host-two")):
        assert f"{host}, worker {rank}: the same tokens, with collectives over dp and tp" in run.out, run.err
    assert run.code != 0 and "not reached" not in run.out
    assert "waited 3 seconds" in run.err and "worker 3 is on another host" in run.err
