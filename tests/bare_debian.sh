#!/usr/bin/env bash
# Do the lines of the Dockerfile work? Runs each in a bare Debian made by debootstrap, for machines without a container engine,
# and then the entry point with what is given here. As root, with a network; not among the tests, as it takes gigabytes.
#
#     apt install debootstrap
#     bash tests/bare_debian.sh FOLDER                                                 as the Dockerfile has it: the demo
#     TORCH_INDEX=https://pypi.org/simple bash tests/bare_debian.sh FOLDER --help      another build argument, other flags
#
# FOLDER becomes the root of that system. What a line did once is not done again: delete FOLDER to start anew. What Docker itself
# does (layers, .dockerignore) is not tried: what git does not ignore is copied.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$(id -u)" -ne 0 ] || [ $# -lt 1 ]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
if [ -z "${IN_NAMESPACE:-}" ]; then  # mounts end with this process
    IN_NAMESPACE=yes exec unshare --mount --fork bash "${BASH_SOURCE[0]}" "$@"
fi
mkdir -p "$1"
root=$(cd "$1" && pwd)
shift
suite=$(sed -n 's/^FROM debian:\([a-z]*\)-slim$/\1/p' Dockerfile)
done_lines="$root/done_lines"  # numbers of lines that need not run again
if [ ! -e "$done_lines" ]; then
    debootstrap --variant=minbase "$suite" "$root" http://deb.debian.org/debian
    touch "$done_lines"
fi
mount --bind /proc "$root/proc"
mount --rbind /dev "$root/dev"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
variables=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
if [ -n "${PIP_CERT:-}" ]; then  # where a proxy signs the packages
    cp -L "$PIP_CERT" "$root/etc/ssl/pip.crt"
    variables+=(PIP_CERT=/etc/ssl/pip.crt)
fi
folder=/
user=0

# Runs words in the system as Docker would: its variables and folder, nothing of this machine's.
inside() {
    chroot --userspec="$user:$user" "$root" env -i "${variables[@]}" /usr/bin/env --chdir="$folder" "$@"
}

number=0
while IFS= read -r line; do
    number=$((number + 1))
    instruction=${line%% *}
    rest=${line#* }
    case $instruction in
        FROM) ;;
        ARG) name=${rest%%=*}; variables+=("$name=${!name:-${rest#*=}}") ;;
        ENV) read -ra words <<< "$rest"; variables+=("${words[@]}") ;;
        WORKDIR) folder=$rest; mkdir -p "$root$folder" ;;
        USER) user=$rest ;;
        COPY)
            if [ "$rest" = ". ." ]; then
                git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --no-same-owner --directory "$root$folder"
            else
                cp "${rest% *}" "$root$folder/"
            fi
            ;;
        RUN)
            if ! grep -qx "$number $(cksum <<< "$line")" "$done_lines"; then
                echo "== $line"
                inside sh -c "$rest"
                echo "$number $(cksum <<< "$line")" >> "$done_lines"
            fi
            ;;
        ENTRYPOINT) read -ra entry <<< "${rest//[],\"[]/}" ;;
        CMD) read -ra command <<< "${rest//[],\"[]/}" ;;
        *) echo "error: tests/bare_debian.sh does not know $instruction of the Dockerfile: teach it" >&2; exit 1 ;;
    esac
# Comments and empty lines go, lines that go on become one.
done < <(sed -e '/^ *#/d' -e '/^$/d' Dockerfile | sed -e ':again' -e '/\\$/N' -e 's/ *\\\n */ /' -e 't again')

if [ $# -gt 0 ]; then command=("$@"); fi
echo "== ${entry[*]} ${command[*]}"
inside "${entry[@]}" "${command[@]}"
