# Makes the demo set's set.json. Input: { config, debs: {ARCH: [index entries]}, host, seed }, with
# config as units.nix gives it and index entries as index-deb prints them.
# Fails with the names of Debian packages that were not downloaded and of libraries that no package has.

def systems: {
  amd64: { system: "x86_64-linux", triple: "x86_64-linux-gnu", loader: "ld-linux-x86-64.so.2" },
  arm64: { system: "aarch64-linux", triple: "aarch64-linux-gnu", loader: "ld-linux-aarch64.so.1" }
};

# A Debian version without epoch and revision, in the characters a store path's name may have.
def upstream: sub("^[0-9]+:"; "") | sub("-[^-]*$"; "") | gsub("[^A-Za-z0-9+._?=-]"; "_");
# A .deb file's name in those characters (a store path's name may not start with a dot or have % or ~).
def store_name: gsub("%3a"; "_") | gsub("[^A-Za-z0-9+._?=-]"; "_");

def glob: "^" + (gsub("(?<c>[.+])"; "[\(.c)]") | gsub("\\*"; "[^ ]*")) + "$";

def leaves: if type == "string" then . else (.[] | leaves) end;

.config as $config | .host as $host
| {
    builder: systems[$host].system,
    seed,
    systems: (.debs | to_entries | map(
      .key as $arch | systems[$arch] as $system
      | (.value | map({key: .package, value: .}) | from_entries) as $debs
      | ($debs | keys) as $names
      | (if $arch == $host then $config.tree
         else $config.tree | with_entries(select(.key as $k | $config.foreign | index($k))) end) as $tree

      # Package → the Debian packages it is made of. A name that has a `*` may match nothing.
      | ($config.units | map_values(.debs |= (map(
          . as $pattern
          | if test("\\*") then ($pattern | glob) as $re | $names[] | select(test($re))
            else $pattern | select($debs[.]) end
        ) | reduce .[] as $d ([]; if index($d) then . else . + [$d] end)))) as $defined
      | ([$defined[].debs[]] | map({key: ., value: true}) | from_entries) as $taken
      | ($defined + ($names | map(select($taken[.] | not))
          | map({key: ., value: {debs: [.], name: ., uses: [], setup: ""}}) | from_entries)) as $units

      # Library, interpreter → the package that has it.
      | ([$units | to_entries[] | .key as $id | .value.debs[] | $debs[.].provides[] | {key: ., value: $id}]
          | sort_by(.key, .value) | reverse | from_entries) as $owner
      | ([$units | to_entries[] | .key as $id | .value.debs[] | {key: ., value: $id}] | from_entries) as $unit_of
      | ({ sh: $unit_of["bash"], bash: $unit_of["bash"], perl: $unit_of["perl-base"], python3: $unit_of["python3-minimal"] }) as $interpreter

      | ($units | with_entries(.key as $id | .value |= (
          . as $unit
          | [.debs[] | $debs[.]] as $parts
          | ([$parts[].provides[]] | map({key: ., value: true}) | from_entries) as $own
          | .wanted = ([$parts[].needs[]] | unique | map(select($own[.] | not)))
          | .needs = (
              [ (.wanted[] | $owner[.] // empty),
                ($parts[].interpreters[] | $interpreter[.] // empty),
                (if .setup | test("\\bwrap ") then $interpreter.bash else empty end),
                .uses[] ]
              | unique | map(select(. != $id)))
        ))) as $linked

      # What the attributes need, and what that needs, and so on.
      | def reach: . as $seen | ([.[] | $linked[.].needs[]?] + . | unique) | if . == $seen then . else reach end;
      ([$tree | leaves] | unique | reach) as $reached

      | [$reached[] | . as $id | select(($linked[$id].debs // []) | length == 0)] as $absent
      | if $absent != [] then error("no Debian package for \($arch): \($absent | join(", "))") else . end

      | { key: $system.system,
          value: ($system + {
            tree: $tree,
            units: ($reached | map({key: ., value: (
              $linked[.] as $unit
              | { name: "\($unit.name)-\($debs[$unit.debs[0]].version | upstream)",
                  setup: $unit.setup,
                  needs: $unit.needs,
                  debs: [$unit.debs[] | $debs[.] | {file, store: (.file | store_name), sha256}] }
            )}) | from_entries)
          }) }
    ) | from_entries)
  }
