#!/usr/bin/env bash
# What supervise.py has each machine of a slice do: "setup BUCKET REPOSITORY COMMIT", "start ARGUMENTS"
# and "report". All can be repeated.
set -euo pipefail
cd ~

# Installs the program in ~/gcvit_flax, and shows the bucket's files in ~/data.
setup() {
    if ! [ -e gcvit_flax/.installed ]; then
        rm -rf gcvit_flax # What an earlier attempt has left.
        git clone --quiet "$2" gcvit_flax
        git -C gcvit_flax checkout --quiet "$3"
        # uv brings the Python that constraints.txt is for; the machine's own is older.
        python3 -m pip install --quiet --user uv
        cd gcvit_flax
        python3 -m uv venv --quiet --python 3.12
        python3 -m uv pip install --quiet -c constraints.txt -e ".[train,gcs]" "jax[tpu]"
        touch .installed
        cd ~
    fi
    if ! command -v gcsfuse > /dev/null; then
        key=/usr/share/keyrings/cloud.google.asc repository=https://packages.cloud.google.com/apt
        curl --fail --silent --show-error $repository/doc/apt-key.gpg | sudo tee $key > /dev/null
        echo "deb [signed-by=$key] $repository gcsfuse-$(lsb_release --codename --short) main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list
        sudo apt-get update --quiet --quiet
        sudo apt-get install --quiet --quiet --yes gcsfuse
    fi
    mkdir -p data
    mountpoint --quiet data || gcsfuse --implicit-dirs -o ro "$1" data
}

# Starts the training apart from the connection, unless it runs already. A lock is held as long as it does: the shell
# that holds it waits for the trainer even after SIGTERM, while the trainer saves.
start() {
    mkdir -p run
    exec 9> run/lock
    if flock --nonblock 9; then
        rm -f run/status
        echo "$*" > run/arguments
        trap "" HUP # The connection may end before setsid has done its work.
        # shellcheck disable=SC2016 # It is the inner shell that expands them.
        TFDS_DATA_DIR=~/data/tfds setsid bash -c \
            'trap : TERM; gcvit_flax/.venv/bin/gcvit-train "$@" 9>&-; echo $? > run/status' bash "$@" \
            < /dev/null > run/log 2>&1 &
    elif [ "$*" != "$(cat run/arguments)" ]; then
        echo "run-state: other"
    fi
}

# What has ended a run: an error of its own, one of another process, or anything else, such as a store that is down.
# With -a, a byte that is no text does not make grep silent.
ended_by() {
    status=$(cat run/status 2> /dev/null || true) # None if the run was killed with all of its processes.
    if [ "$status" = 1 ] && grep -aq "^error: process [0-9]" run/log; then
        echo deserted
    elif [ "$status" = 1 ] && grep -aq "^error: .*cannot be reached (" run/log; then
        echo ended
    elif [ "$status" = 2 ] || { [ "$status" = 1 ] && grep -aq "^error: " run/log; }; then
        echo error
    else
        echo ended
    fi
}

# Prints the run's state, and what it has said that matters.
report() {
    if ! [ -e run/log ]; then
        echo "run-state: none"
        return
    elif ! flock --nonblock run/lock true; then
        echo "run-state: running"
        tail -n 1 run/log
    else
        echo "run-state: $(ended_by)"
        tail -n 20 run/log
    fi
    grep -aE "^(run: |stopped by |done: |error: )|this run is done" run/log || true
}

"$@"
