# The demo package set and packages for Nixery's tests, each of which is difficult in one way.
#
# scripts/demo-set puts this file in test-set/default.nix, with two files beside it:
#   base   the demo set's directory: its name, if it is next to this one, or an absolute path
#   salt   any text. Packages whose comment says "Salted" are built again when it changes.
{ system ? builtins.currentSystem, ... }@arguments:

let
  base = builtins.head (builtins.split "\n" (builtins.readFile ./base));
  load = import (if builtins.substring 0 1 base == "/" then /. + base else ./.. + "/${base}");
  demo = load arguments;
  # The build tools run on this machine, for whatever system the image is.
  host = load { };

  salt = builtins.readFile ./salt;

  build = name: attributes: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "${host.bashInteractive}/bin/bash";
    # Bash becomes the last command of a script, and Nix kills (signal 9) what closes its output before it ends,
    # as the programs of coreutils do. So the last command is one of bash's own.
    args = [ "-euc" "${script}\n:" ];
    PATH = "${host.coreutils}/bin";
    preferLocalBuild = true;
    allowSubstitutes = false;
  } // attributes);

  salted = name: build name { inherit salt; };
  plain = name: build name { };

  numbers = count: builtins.genList (index: index + 1) count;
  each = prefix: values: make:
    builtins.listToAttrs (map (value: { name = "${prefix}-${toString value}"; value = make value; }) values);

  megabyte = 1000000;
in
demo

# ---- packages that do not evaluate

// {
  throws = throw "throws does not evaluate, on purpose";
  # Its name and type can be evaluated, its derivation cannot, as with broken and unfree packages of nixpkgs.
  throws-late = demo.hello // {
    drvPath = throw "throws-late has no derivation, on purpose";
    outPath = throw "throws-late has no derivation, on purpose";
  };
  asserts = assert builtins.stringLength "asserts" == 0; demo.hello;
  recurses = let self = self // { }; in self;
  imports-from-derivation = import (plain "code" "echo 1 > $out");
}

# ---- attributes that are not derivations

// {
  a-function = argument: argument;
  a-list = [ demo.hello ];
  a-null = null;
  a-number = 1;
  a-set = { inherit (demo) hello; };
  a-string = "text";
}

# ---- packages that do not build

// {
  # Salted.
  fails = salted "fails-1.0" ''
    for line in $(seq 1 30); do echo "fails: line $line of its log"; done
    echo "fails: this is the reason it fails" >&2
    exit 1
  '';
  # Salted.
  fails-with-7 = salted "fails-with-7-1.0" "echo 'about to exit with status 7'; exit 7";
  # Salted: its dependency is.
  needs-fails = salted "needs-fails-1.0" "echo ${(salted "fails-below-1.0" "echo 'fails below'; exit 1")} > $out";
  # Succeeds without making its output.
  makes-nothing = plain "makes-nothing-1.0" "echo 'made nothing'";
  # Nix accepts only files, directories and links.
  fifo = plain "fifo-1.0" "mkdir $out; mkfifo $out/pipe";
  other-platform = build "other-platform-1.0" { system = "riscv64-linux"; } "echo > $out";
  hash-mismatch = build "hash-mismatch-1.0" {
    outputHash = "0000000000000000000000000000000000000000000000000000000000000000";
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
  } "echo > $out";
  # Salted. Never ends, and ignores SIGTERM, SIGINT and SIGHUP.
  hangs = salted "hangs-1.0" ''
    trap "" TERM INT HUP
    echo "hangs: waiting for ever"
    while true; do sleep 1000 || true; done
  '';
}

# ---- logs

// {
  # Salted. NULs, invalid UTF-8, escape sequences, carriage returns, a line of a megabyte, megabytes on both pipes.
  dirty-log = salted "dirty-log-1.0" ''
    noise() {
      printf 'NUL \0, bytes \377\376\200, escapes \033[31mred\033[0m \033]0;title\007, return\roverwritten\n'
      head -c ${toString megabyte} /dev/zero | tr '\0' x
      echo
      yes "a line of the log of dirty-log" | head -n 50000
    }
    noise
    noise >&2
    mkdir $out
    echo done > $out/done
  '';
  # Salted. The same and fails.
  dirty-log-fails = salted "dirty-log-fails-1.0" ''
    printf 'NUL \0, bytes \377\376\200, escapes \033[31mred\033[0m\n'
    head -c ${toString megabyte} /dev/zero
    echo
    yes "a line of the log of dirty-log-fails" | head -n 50000 >&2
    echo "dirty-log-fails: the last line"
    exit 1
  '';
}

# ---- time: slow-N takes N seconds, fresh-N none. All are salted.

// each "slow" [ 1 2 3 5 10 15 20 30 40 50 60 70 90 120 300 ] (seconds: salted "slow-${toString seconds}-1.0" ''
  mkdir -p $out/share
  for second in $(seq 1 ${toString seconds}); do
    echo "slow: second $second of ${toString seconds}"
    sleep 1
  done
  printf '%s' "$salt" > $out/share/slow-${toString seconds}
'')
// each "fresh" (numbers 30) (number: salted "fresh-${toString number}-1.0" ''
  echo "building fresh-${toString number}"
  mkdir -p $out/share
  printf '%s' "$salt" > $out/share/fresh-${toString number}
  yes "fresh ${toString number} $salt" | head -c ${toString megabyte} > $out/share/fresh-${toString number}.data
'')

# ---- outputs that are not directories

// {
  file-output = plain "file-output-1.0" "echo 'the output is a file' > $out";
  executable-output = plain "executable-output-1.0" ''
    printf '#!%s\necho "the output is a program"\n' ${demo.bashInteractive}/bin/bash > $out
    chmod +x $out
  '';
  link-output = plain "link-output-1.0" "ln -s ${demo.hello} $out";
  link-to-file-output = plain "link-to-file-output-1.0" "ln -s ${demo.hello}/bin/hello $out";
  dangling-link-output = plain "dangling-link-output-1.0" "ln -s /nowhere/at/all $out";
  empty-output = plain "empty-output-1.0" "mkdir $out";
  # The first output is not named `out`.
  several-outputs = build "several-outputs-1.0" { outputs = [ "bin" "dev" "doc" ]; } ''
    mkdir -p $bin/bin $dev/include $doc/share
    echo "$dev" > $bin/bin/several
    echo dev > $dev/include/several.h
    echo doc > $doc/share/several
  '';
}

# ---- names and trees

// {
  # Names that are not UTF-8, have spaces, newlines and shell's and tar's special characters, are as long as a
  # file system allows, or make a long path.
  odd-names = plain "odd-names-1.0" ''
    mkdir -p $out/share/odd
    cd $out/share/odd
    for name in 'a space' $'a\nnewline' $'a\ttab' $'latin-1 \xe9' $'invalid \xff\xfe' $'NFC \xc3\xa9' $'NFD e\xcc\x81' \
        'quote"quote' "quote'quote" 'back\slash' '-n' '--help' '*' '?' '$HOME' '%s' ':' '~' '#' '...' '.hidden' \
        $'bell \a' $'escape \e[31m' $'\xf0\x9f\xa6\x80' './@LongLink' '@PaxHeader' 'nix'; do
      printf 'content of %s' "$name" > "./$name"
    done
    for length in 99 100 101 154 155 156 199 200 254 255; do
      name=$(head -c $length /dev/zero | tr '\0' n)
      printf '%s' $length > "$name"
      ln -s "$name" "link-$length"
    done
    directory=$(head -c 200 /dev/zero | tr '\0' d)
    mkdir -p "$directory/$directory/$directory/$directory"
    echo deep > "$directory/$directory/$directory/$directory/file"
    ln -s "$directory/$directory/$directory/$directory/file" long-target
    ln -s $'target \xff\n' odd-target
    ln -s /etc/passwd absolute-target
    ln -s . dot-target
    mkdir $'directory \xff' 'directory with spaces'
    touch $'directory \xff/file' 'directory with spaces/file'
  '';
  empty-directories = plain "empty-directories-1.0" ''
    mkdir -p $out/empty $out/nested/empty/deeper $out/share/beside
    echo > $out/share/file
  '';
  hard-links = plain "hard-links-1.0" ''
    mkdir -p $out/share/a $out/share/b
    echo "one file with four names" > $out/share/a/1
    ln $out/share/a/1 $out/share/a/2
    ln $out/share/a/1 $out/share/b/3
    ln $out/share/a/1 $out/share/0
  '';
  modes = plain "modes-1.0" ''
    mkdir -p $out/share
    cd $out/share
    for mode in 000 111 200 400 444 500 555 600 644 666 700 755 777 100 010 001; do
      echo $mode > $mode
      chmod $mode $mode
    done
    mkdir closed
    chmod 700 closed
  '';
  # A file name that makes unpackers remove a file of a lower layer, and one that empties a directory.
  whiteout = plain "whiteout-1.0" "mkdir -p $out/share; echo > $out/share/.wh.removed";
  opaque-whiteout = plain "opaque-whiteout-1.0" "mkdir -p $out/share; echo > $out/share/.wh..wh..opq";
  # 20,000 files in 200 directories.
  many-files = plain "many-files-1.0" ''
    mkdir -p $out/share/many
    cd $out/share/many
    for directory in $(seq 1 200); do
      mkdir $directory
      for file in $(seq 1 100); do echo "$directory $file" > $directory/$file; done
    done
  '';
}

# ---- sizes

// {
  # 110 MB, so its closure is over the 100 MB from which a path has a layer of its own.
  big-file = plain "big-file-1.0" ''
    mkdir -p $out/share
    seq 1 20000000 | head -c ${toString (110 * megabyte)} > $out/share/big
  '';
  # Sparse on most file systems; the sizes a NAR, a tar and a layer have are real.
  huge-file = plain "huge-file-1.0" "mkdir -p $out/share; truncate -s 2G $out/share/huge";
  # More than the 8 GiB that a tar header's octal size holds.
  enormous-file = plain "enormous-file-1.0" "mkdir -p $out/share; truncate -s 9G $out/share/enormous; echo end >> $out/share/enormous";
}

# ---- packages that meet in the root layer

// {
  conflict-a = plain "conflict-a-1.0" "mkdir -p $out/bin $out/share/a; echo a > $out/bin/conflict; echo a > $out/share/a/file";
  conflict-b = plain "conflict-b-1.0" "mkdir -p $out/bin $out/share/b; echo b > $out/bin/conflict; echo b > $out/share/b/file";
  # share/meeting is a directory, a link to a directory, a file, a dangling link.
  meets-a-directory = plain "meets-a-directory-1.0" "mkdir -p $out/share/meeting; echo directory > $out/share/meeting/from-directory";
  meets-b-link = plain "meets-b-link-1.0" ''
    mkdir -p $out/share $out/elsewhere
    echo link > $out/elsewhere/from-link
    ln -s ../elsewhere $out/share/meeting
  '';
  meets-c-file = plain "meets-c-file-1.0" "mkdir -p $out/share; echo file > $out/share/meeting";
  meets-d-dangling = plain "meets-d-dangling-1.0" "mkdir -p $out/share; ln -s nowhere $out/share/meeting";
  # Has files that Nixery writes itself if no package has them.
  own-etc = plain "own-etc-1.0" ''
    mkdir -p $out/etc $out/tmp
    echo 'root:x:0:0:from a package:/root:/bin/sh' > $out/etc/passwd
    echo > $out/tmp/file
  '';
  # Links in a circle.
  circular-links = plain "circular-links-1.0" "mkdir -p $out/share; ln -s b $out/share/a; ln -s a $out/share/b; ln -s . $out/share/self";
}

# ---- shapes of reference graphs

// {
  # Refers to 150 paths, which is more than a default budget of layers.
  wide = plain "wide-1.0" "mkdir -p $out/share; echo ${
    toString (map (number: plain "wide-part-${toString number}" "mkdir $out; echo ${toString number} > $out/number") (numbers 150))
  } > $out/share/parts";
  # A chain of 60 paths, each referring to the next.
  deep = builtins.foldl'
    (below: number: plain "deep-${toString number}" "mkdir $out; echo ${below} > $out/below")
    (plain "deep-0" "mkdir $out")
    (numbers 60);
  self-reference = plain "self-reference-1.0" "mkdir $out; echo $out > $out/self";
}
