# The demo package set: which attribute is made from which Debian packages.
#
# To add a package, add a line: `attribute = "debian-package";`. Then run scripts/demo-set.
#
# A package that needs more is a set:
#   debs   Debian packages unpacked into one store path; a name may have `*` (perl-modules-*). The first one
#          gives the version.
#   name   the store path's name, by default the first Debian package's
#   uses   other packages whose paths `setup` needs, by the name of their first Debian package
#   setup  bash, run in the finished output; the helpers are in build-package.sh
#
# Libraries need no line. scripts/demo-set finds the library that a program is linked with in the packages that
# Debian's dependencies add. Each becomes a store path of its own
# that all its users share.
let
  # The terminal descriptions, which Debian's libraries look for in /lib/terminfo.
  terminal = deb: {
    debs = [ deb ];
    uses = [ "ncurses-base" ];
    setup = "terminfo";
  };
in
{
  packages = {
    # What the meta-packages of Nixery and every image need, under the names of nixpkgs.
    bashInteractive = {
      debs = [ "bash" ];
      uses = [ "ncurses-base" ];
      setup = ''
        terminfo
        ln -s bash bin/sh
      '';
    };
    coreutils = "coreutils";
    moreutils = {
      debs = [ "moreutils" "libipc-run-perl" "libio-pty-perl" "libtime-duration-perl" "libtimedate-perl" ];
    };
    nano = terminal "nano";
    cacert = {
      debs = [ "ca-certificates" ];
      # Nixery treats a path of this name as one that every image has, as with nixpkgs.
      name = "nss-cacert";
      # ca-certificates.crt is where Debian's own libraries look.
      setup = ''
        mkdir -p etc/ssl/certs
        cat share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-bundle.crt
        ln -s ca-bundle.crt etc/ssl/certs/ca-certificates.crt
        keep etc/ssl
      '';
    };
    iana-etc = {
      debs = [ "netbase" ];
      name = "iana-etc";
      setup = "keep etc/protocols etc/services";
    };

    # Programs.
    _6tunnel = "6tunnel";
    _7zz = "7zip";
    bc = "bc";
    busybox = { debs = [ "busybox-static" ]; name = "busybox"; };
    cowsay = {
      debs = [ "cowsay" "libtext-charwidth-perl" ];
      setup = "wrap bin/cowsay COWPATH=$out/share/cowsay/cows";
    };
    curl = "curl";
    dash = "dash";
    diffutils = "diffutils";
    fd = { debs = [ "fd-find" ]; name = "fd"; setup = "ln -s fdfind bin/fd"; };
    figlet = { debs = [ "figlet" ]; setup = "wrap bin/figlet-figlet FIGLET_FONTDIR=$out/share/figlet; ln -s figlet-figlet bin/figlet"; };
    file = {
      debs = [ "file" "libmagic-mgc" ];
      setup = "wrap bin/file MAGIC=$out/lib/file/magic.mgc";
    };
    findutils = "findutils";
    gawk = { debs = [ "gawk" ]; setup = "ln -s gawk bin/awk"; };
    git = {
      debs = [ "git" "liberror-perl" ];
      setup = ''
        wrap bin/git GIT_EXEC_PATH=$out/lib/git-core GIT_TEMPLATE_DIR=$out/share/git-core/templates
      '';
    };
    gnugrep = { debs = [ "grep" ]; name = "gnugrep"; };
    gnumake = { debs = [ "make" ]; name = "gnumake"; };
    gnupatch = { debs = [ "patch" ]; name = "gnupatch"; };
    gnused = { debs = [ "sed" ]; name = "gnused"; };
    gnutar = { debs = [ "tar" ]; name = "gnutar"; };
    gzip = "gzip";
    hello = "hello";
    htop = terminal "htop";
    jq = "jq";
    less = terminal "less";
    nginx = { debs = [ "nginx" "nginx-common" ]; };
    openssl = "openssl";
    patchelf = "patchelf";
    perl = {
      debs = [ "perl" "perl-base" "perl-modules-*" "libperl5.*" ];
      # The first two directories are where packages of perlPackages end up in an image.
      setup = ''
        rm lib/$triple/libperl.so.*
        version=$(cd share/perl; echo 5.*[0-9] | tr ' ' '\n' | sort | head -n 1)
        wrap bin/perl PERL5LIB=/share/perl5:/lib/$triple/perl5/$version:$out/lib/$triple/perl-base:$out/lib/$triple/perl/$version:$out/share/perl/$version
      '';
    };
    procps = terminal "procps";
    python3 = {
      debs = [ "python3-minimal" "python3" "python3.*-minimal" "python3.*" "libpython3.*-minimal" "libpython3.*-stdlib" "libpython3-stdlib" ];
      name = "python3";
      # Finds packages of python3Packages where they end up in an image.
      setup = ''
        mkdir -p lib/python3/dist-packages
        echo /lib/python3/dist-packages > lib/python3/dist-packages/image.pth
        ln -s python3 bin/python
      '';
    };
    redis = { debs = [ "redis-server" "redis-tools" ]; name = "redis"; };
    ripgrep = "ripgrep";
    rsync = "rsync";
    socat = "socat";
    sqlite = { debs = [ "sqlite3" ]; name = "sqlite"; };
    strace = "strace";
    tmux = {
      debs = [ "tmux" ];
      uses = [ "ncurses-base" "libc-bin" ];
      setup = ''
        terminfo
        wrap bin/tmux LOCPATH=''${unit[libc-bin]}/lib/locale LC_CTYPE=C.UTF-8
      '';
    };
    tree = "tree";
    unzip = "unzip";
    vim = {
      debs = [ "vim-tiny" "vim-common" ];
      name = "vim";
      uses = [ "ncurses-base" ];
      setup = ''
        terminfo
        for alias in vi vim; do ln -s vim.tiny bin/$alias; done
      '';
    };
    wget = "wget";
    which = { debs = [ "debianutils" ]; name = "which"; setup = "ln -s which.debianutils bin/which; keep bin"; };
    xz = { debs = [ "xz-utils" ]; name = "xz"; };
    zstd = "zstd";

    # Nested sets, whose names have capitals as in nixpkgs.
    perlPackages = {
      JSON = "libjson-perl";
      JSONXS = { debs = [ "libjson-xs-perl" "libcommon-sense-perl" "libtypes-serialiser-perl" ]; };
      TryTiny = "libtry-tiny-perl";
    };
    python3Packages = {
      six = "python3-six";
      pyyaml = "python3-yaml";
    };
    haskellPackages = {
      ShellCheck = { debs = [ "shellcheck" ]; name = "ShellCheck"; };
      cpphs = "cpphs";
      hscolour = "hscolour";
    };
  };

  # Packages that are not requested by name and that need more than a line.
  shared = {
    # libc and libgcc need each other. The gconv modules are looked for in /usr/lib alone, so they would be
    # dead weight. The C library is the one package whose files are not patched.
    glibc = {
      debs = [ "libc6" "libgcc-s1" ];
      name = "glibc";
      setup = "rm -rf lib/$triple/gconv lib/$triple/audit";
    };
    locale = { debs = [ "libc-bin" ]; name = "glibc-locale-c-utf8"; setup = "keep lib/locale"; };
    ncurses-base = "ncurses-base";
  };

  # The attributes that the set also has for the other architecture (arm64 on an amd64 machine). They need
  # another download, so these are not all.
  foreign = [
    "_7zz" "bashInteractive" "cacert" "coreutils" "curl" "git" "gnugrep" "gnused" "hello" "htop" "iana-etc" "jq"
    "less" "moreutils" "nano" "perl" "sqlite" "tree"
  ];
}
