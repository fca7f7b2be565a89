#!/bin/bash
# On a machine with one NVIDIA GPU: what works there, decode of one worker's part of a Llama, and the shared suite of backends with two
# workers on that GPU, both ways that NCCL has. Several workers on one GPU show that numbers are right. They say nothing of speed.
set -u -o pipefail

usage() {
	cat <<'TEXT'
benchmarks/gpu/run.sh [--python PATH] [--out DIR] [--every N] [--dry-run]
benchmarks/gpu/run.sh --pack FILE

Runs from a copy of this repository, whose dependencies are installed: pip install -e '.[nccl,test]', and nvcc on the path.
  --python PATH  the interpreter (default: .venv/bin/python, else python3)
  --out DIR      where the logs go (default: gpu-log)
  --every N      run one of so many cases of the suite (default: 8)
  --dry-run      print the commands and what is missing for them, run nothing
  --pack FILE    write what has to be carried to that machine, a .tar.xz of the sources, and say how large it is
All parts together take 8 minutes at most; each has a limit of its own, and the others run where one fails. The exit code is that of the last that failed.
TEXT
}

cd "$(dirname "$0")/../.." || exit 1
python= out=gpu-log every=8 dry= pack=
while (($#)); do
	case $1 in
	--python | --out | --every | --pack)
		(($# > 1)) || { echo "$1 takes a value" >&2; exit 2; }
		printf -v "${1#--}" %s "$2"
		shift 2
		;;
	--dry-run) dry=1; shift ;;
	-h | --help) usage; exit 0 ;;
	*) echo "there is no option $1" >&2; usage >&2; exit 2 ;;
	esac
done
[[ $every =~ ^[1-9][0-9]*$ ]] || { echo "--every takes a number, and got $every" >&2; exit 2; }

if [[ -n $pack ]]; then
	tar --warning=no-file-changed -cJf "$pack" --exclude=__pycache__ spmd tests benchmarks examples pyproject.toml README.md LICENSE Makefile || (($? == 1)) || exit 1 # 1: one was written to meanwhile, such as a cache
	bytes=$(stat -c %s "$pack")
	echo "$pack: $bytes bytes"
	((bytes <= 60000000)) || { echo "that is more than 60 MB" >&2; exit 1; }
	exit 0
fi
if [[ -z $python ]]; then
	python=$PWD/.venv/bin/python
	[[ -x $python ]] || python=$(command -v python3) || { echo "there is no python3: name one with --python" >&2; exit 1; }
fi

code=0
part() { # its name, its seconds, the command
	local name=$1 seconds=$2
	shift 2
	if [[ -n $dry ]]; then
		echo "$name: timeout -k 10 $seconds $*"
		return
	fi
	echo "== $name"
	timeout -k 10 "$seconds" "$@" > >(tee "$out/$name.log") 2>&1 || { code=$?; echo "== $name failed with $code" >&2; }
}

if [[ -n $dry ]]; then
	for name in nvidia-smi nvcc timeout tee; do
		command -v "$name" >/dev/null || echo "missing: $name, on the path" >&2
	done
	for module in tvm mpi4py nvidia.nccl hypothesis; do
		"$python" -c "import sys; from importlib.util import find_spec as f; sys.exit(not f(sys.argv[1]))" "$module" 2>/dev/null || echo "missing: $module, which $python does not have" >&2
	done
fi
[[ -n $dry ]] || mkdir -p "$out" || exit 1
export PYTHONPATH=$PWD
# Few blocks for each worker: where the GPU has no room for all of them at once, they wait for one another for ever.
few=(NCCL_DEBUG=WARN NCCL_NVLS_ENABLE=0 NCCL_MAX_CTAS=2)
run=("$python" -m spmd run -n 2 -m benchmarks.gpu.suite --every "$every")
part machine 10 nvidia-smi
part doctor 50 "$python" -m spmd doctor
part decode 170 "$python" -m benchmarks.gpu.decode
# NCCL 2.30 and later let several ranks have one GPU; before, ranks that say they are on different hosts did, over sockets.
part shared 100 env "${few[@]}" NCCL_MULTI_RANK_GPU_ENABLE=1 "${run[@]}"
part hosts 100 env "${few[@]}" NCCL_SOCKET_IFNAME=lo "${run[@]}" --own-host
exit "$code"
