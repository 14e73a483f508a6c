# shellcheck shell=bash
# Builds a package of the demo set: unpacks its Debian packages and patches what they hold to the store paths
# it needs. Environment, from default.nix:
#   id, out, debs         the package, its output, its .deb files
#   triple, loader        Debian's name of the architecture, the file name of its dynamic loader
#   unitNames, unitPaths  the packages this one may refer to, by name and by path
#   setup                 what else packages.nix wants done
# shellcheck disable=SC2154 # all of these come from the environment
set -euo pipefail
shopt -s nullglob globstar dotglob
export LC_ALL=C
umask 022

fail() {
    printf '%s: %s\n' "$id" "$*" >&2
    exit 1
}

# The packages this one may refer to, itself included.
declare -A unit=()
read -ra names <<<"$unitNames"
read -ra paths <<<"$unitPaths"
for i in "${!names[@]}"; do unit[${names[i]}]=${paths[i]}; done
unit[$id]=$out

# ---- unpack, with /usr, /usr/local and the like folded into the top

root=$NIX_BUILD_TOP/root
mkdir "$root"
# Without set-user-ID bits, which Nix forbids.
for deb in $debs; do
    dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory "$root" --no-same-permissions --no-same-owner
done

mkdir "$out"
cd "$root"
for place in . usr; do
    for entry in "$place"/*; do
        case $entry in
        ./usr | ./var | ./run | ./boot | ./dev | ./home | ./root | ./tmp | ./srv | ./mnt | ./media) ;;
        */sbin | */games) mkdir -p "$out/bin" && cp -dR --preserve=mode,links "$entry/." "$out/bin/" ;;
        *) mkdir -p "$out/${entry##*/}" && cp -dR --preserve=mode,links "$entry/." "$out/${entry##*/}/" ;;
        esac
    done
done
cd "$out"
chmod -R u+w .

# ---- drop what a container has no use for; the licences stay

rm -rf share/{man,info,locale,lintian,bug,menu,applications,icons,pixmaps,metainfo,doc-base,apport,zsh,fish} \
    share/bash-completion share/initramfs-tools share/debconf share/gitweb share/polkit-1 share/gdb \
    lib/{systemd,udev,tmpfiles.d,sysusers.d,sysctl.d,modprobe.d,init,dpkg,mime} \
    etc/{init.d,init,default,cron*,apt,logrotate.d,pam.d,ufw,apparmor.d,bash_completion.d,kernel,network,skel,dpkg}
for file in share/doc/**; do
    if [ -f "$file" ] && [ "${file##*/}" != copyright ]; then rm "$file"; fi
done
find . -mindepth 1 -depth -type d -empty -delete

# ---- links: to where their target is now, in this package or in one it needs

# Prints the absolute path $1 without `.`, `..` and empty parts, in the folded tree.
fold() {
    local part parts=() path
    IFS=/ read -ra split <<<"$1"
    for part in "${split[@]}"; do
        case $part in
        '' | .) ;;
        ..) if [ ${#parts[@]} -gt 0 ]; then unset 'parts[-1]'; fi ;;
        *) parts+=("$part") ;;
        esac
    done
    path=$(IFS=/ && printf '%s' "${parts[*]}")
    path=${path#usr/}
    case $path in
    sbin/* | games/*) path=bin/${path#*/} ;;
    esac
    printf '%s' "$path"
}

while IFS= read -r -d '' link; do
    to=$(readlink "$link")
    case $to in
    "$NIX_STORE"/*) continue ;;
    /*) to=$(fold "$to") ;;
    *) to=$(fold "${link%/*}/$to") ;;
    esac
    found=
    for path in "$out" "${paths[@]}"; do
        if [ -e "$path/$to" ] || [ -L "$path/$to" ]; then found=$path/$to && break; fi
    done
    case $found in
    '')
        case $link in ./share/doc/*) ;; *) echo "dropped the link $link to $to, which is in no package that $id needs" ;; esac
        rm "$link"
        ;;
    "$out"/*)
        up=$(printf '%s' "${link//[!\/]/}")
        up=${up#/}
        ln -sfn "${up//\//../}$to" "$link"
        ;;
    *) ln -sfn "$found" "$link" ;;
    esac
done < <(find . -type l -print0 | sort -z)

# ---- programs and libraries: the loader and the directories of the libraries they need

# Prints the directory of library $1.
library() {
    local path file
    for path in "$out" "${paths[@]}"; do
        for file in "$path/lib/$triple/$1" "$path/lib/$1" "$path/lib64/$1"; do
            if [ -e "$file" ]; then printf '%s' "${file%/*}" && return; fi
        done
    done
    for file in "$out"/lib/**/"$1"; do printf '%s' "${file%/*}" && return; done
    return 1
}

# Patches the ELF file $1.
patch_elf() {
    local needed name directory rpath='' options=(--force-rpath)
    needed=$(patchelf --print-needed "$1" 2>/dev/null) || return 0 # static
    [ -n "$needed" ] || return 0
    while read -r name; do
        directory=$(library "$name") || fail "$1 needs the library $name, which is in no package that $id needs"
        case :$rpath: in
        *:"$directory":*) ;;
        *) rpath=${rpath:+$rpath:}$directory ;;
        esac
    done <<<"$needed"
    if patchelf --print-interpreter "$1" >/dev/null 2>&1; then
        options+=(--set-interpreter "$(library "$loader")/$loader")
    fi
    patchelf "${options[@]}" --set-rpath "$rpath" "$1"
}

# ---- scripts: the interpreter

# Prints the path of program $1, or nothing.
program() {
    local path
    for path in "$out" "${paths[@]}"; do
        if [ -e "$path/bin/$1" ]; then printf '%s' "$path/bin/$1" && return; fi
    done
}

# Patches the first line of script $1.
patch_script() {
    local first interpreter arguments path modules
    IFS= read -r first <"$1" 2>/dev/null || true
    read -r interpreter arguments <<<"${first#\#!}"
    if [ "${interpreter##*/}" = env ]; then
        read -r interpreter arguments <<<"$arguments"
    fi
    interpreter=${interpreter##*/}
    # sh is one more name of bash, which `setup` of bash makes.
    case $interpreter in sh | bash) path=$(program bash) ;; *) path=$(program "$interpreter") ;; esac
    if [ -z "$path" ]; then
        echo "left $1 as it is: no package that $id needs has its interpreter, $interpreter"
        return
    fi
    if [ "$interpreter" = sh ]; then path=${path%bash}sh; fi
    # A line of #! takes one argument; Perl reads the switches it finds there.
    if [ "$interpreter" = perl ]; then
        for modules in "$out/share/perl5" "$out/lib/$triple"/perl5/5.*; do
            if [ -d "$modules" ]; then arguments="-I$modules${arguments:+ $arguments}"; fi
        done
    fi
    sed -i "1s|.*|#!$path${arguments:+ $arguments}|" "$1"
}

if [ "$id" != libc6 ]; then
    while IFS= read -r -d '' file; do
        IFS= read -r -N 4 magic <"$file" 2>/dev/null || true
        case $magic in
        $'\x7fELF') case $file in *.o | *.a) ;; *) patch_elf "$out/${file#./}" ;; esac ;;
        '#!'*) if [ -x "$file" ]; then patch_script "$out/${file#./}"; fi ;;
        esac
    done < <(find . -type f -print0 | sort -z)
fi

# ---- helpers for `setup`

# wrap PROGRAM VARIABLE=VALUE…: gives the program these variables unless they are set. PERL5LIB, a list, comes
# behind the user's.
# shellcheck disable=SC2016 # for the wrapper to expand
wrap() {
    local program=$1 shell variable hidden
    shift
    shell=$(program bash)
    [ -n "$shell" ] || fail "a wrapper needs bash"
    hidden=${program%/*}/.${program##*/}-wrapped
    mv "$program" "$hidden"
    {
        printf '#!%s\n' "$shell"
        for variable in "$@"; do
            case $variable in
            PERL5LIB=*) printf 'export PERL5LIB="${PERL5LIB:+$PERL5LIB:}%s"\n' "${variable#*=}" ;;
            *) printf 'export %s="${%s-%s}"\n' "${variable%%=*}" "${variable%%=*}" "${variable#*=}" ;;
            esac
        done
        printf 'exec -a "$0" %s "$@"\n' "$out/$hidden"
    } >"$program"
    chmod 755 "$program"
}

# keep PATH…: removes everything else.
keep() {
    local path kept
    for path in "$@"; do
        kept=$root/kept/$path
        mkdir -p "${kept%/*}"
        mv "$path" "$kept"
    done
    rm -rf -- *
    mv "$root"/kept/* .
}

# terminfo: the terminal descriptions, where they are looked for in an image.
terminfo() {
    mkdir -p lib
    ln -s "${unit[ncurses-base]}/lib/terminfo" lib/terminfo
}

eval "$setup"
