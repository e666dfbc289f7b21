# Make the root of an image in $1, for the user $2 with the id $3; $4 and so on are where things get mounted. Runs in
# the build stage, whose Python the root gets.
#
# An image is started FROM scratch with this and nothing else: no shell, no package manager, no tools to build with,
# nothing with set-user-id. Files come out of installed packages by dpkg's lists, whose entries are kept in
# /var/lib/dpkg/status, so that scanners of images know what is in it.
set -eu

root=$1
user=$2
id=$3
shift 3

python=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

# What python3 and the wheels' libraries load. Without readline, curses, dbm, nis and crypt, which drag in libraries
# that no server uses: their modules are left out below.
packages="base-files libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 liblzma5 $python-minimal lib$python-minimal
    lib$python-stdlib libsqlite3-0 libssl3 libstdc++6 libuuid1 python3-minimal zlib1g"

mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/var/lib/dpkg" "$root/etc"
# Where Debian put the directories of the root itself.
for name in bin lib lib64; do
    ln -s "usr/$name" "$root/$name"
done

# shellcheck disable=SC2086 # a list
dpkg-query --listfiles $packages | sort -u | while read -r file; do
    case $file in
        /usr/share/doc/*/copyright | /usr/share/common-licenses/* | /usr/lib/os-release | /etc/os-release) ;;
        /usr/share/* | /etc/* | /usr/bin/* | /usr/sbin/* | /sbin/* | /bin/* | /var/*)
            [ "$file" = "/usr/bin/$python" ] || [ "$file" = /usr/bin/python3 ] || continue
            ;;
        */lib-dynload/readline.* | */lib-dynload/_curses* | */lib-dynload/_dbm.* | */lib-dynload/nis.*) continue ;;
        */lib-dynload/_crypt.* | */gconv/* | /usr/lib/binfmt.d/* | /sbin) continue ;;
    esac
    if [ -f "$file" ] || [ -L "$file" ]; then
        printf '%s\0' "${file#/}"
    fi
done | tar --create --directory=/ --null --no-recursion --files-from=- | tar --extract --directory="$root"

# shellcheck disable=SC2086 # a list
dpkg-query --status $packages >"$root/var/lib/dpkg/status"

printf 'root:x:0:0:root:/:/nonexistent\n%s:x:%d:%d::/nonexistent:/nonexistent\n' "$user" "$id" "$id" >"$root/etc/passwd"
printf 'root:x:0:\n%s:x:%d:\nbridge:x:10003:%s\n' "$user" "$id" "$user" >"$root/etc/group"
# Without it the C library asks name servers for `localhost`.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

# A read-only root cannot get them later.
mkdir -p "$root/dev" "$root/proc" "$root/run" "$root/sys" "$root/tmp"
for place; do
    mkdir -p "$root$place"
done
chmod 1777 "$root/tmp"
