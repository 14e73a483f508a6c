//! The parts of an image: its name, the tars of its layers, layers packed with each codec by one
//! thread, its manifests. Larger layers, and more threads, are in `--bench pack`.
//!
//! `cargo bench -p nixery-benches --bench images`. The `baseline` lines are the plain way of doing
//! the same; a table after each group says how many times slower that was in this run.

mod quick;
mod ratios;

use std::fs;
use std::hint::black_box;
use std::io;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nixery_benches::{baseline, baseline_pack};
use nixery_core::{Codec, ImageName, Packer, StorePath, StoreRoot, write_layer_tar};
use nixery_manifest::{
    Compression, Digest, ImageLayer, ImageParts, Platform, RuntimeConfig, assemble,
};
use quick::quick;
use ratios::Ratios;

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("name");
    let mut ratios = Ratios::default();
    for packages in [3, 30] {
        let packages: Vec<String> = (0..packages).map(|i| format!("set.p{i}")).collect();
        let name = format!("arm64/shell/{}", packages.join("/"));
        ratios.compare(
            &mut group,
            "parse",
            packages.len(),
            || ImageName::parse(black_box(&name)).expect("a name"),
            || baseline::name(black_box(&name)),
        );
    }
    group.finish();
    ratios.print();
}

fn tars(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tar");
    let mut ratios = Ratios::default();
    let store = tempfile::tempdir().expect("a directory");
    let path: StorePath = "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-sample"
        .parse()
        .expect("a path");
    let root = StoreRoot::new(store.path());
    let directory = root.locate(&path);
    let size = 4 << 20;
    // As many bytes each: many small files, some of middle size, one large.
    for (files, name) in [
        (2_048usize, "2 KiB files"),
        (64, "64 KiB files"),
        (1, "4 MiB file"),
    ] {
        if directory.exists() {
            fs::remove_dir_all(&directory).expect("it can be removed");
        }
        for file in 0..files {
            let folder = directory.join(format!("share/{}", file % 16));
            fs::create_dir_all(&folder).expect("it can be made");
            fs::write(folder.join(format!("file{file}")), vec![b'x'; size / files])
                .expect("it can be written");
        }
        group.throughput(Throughput::Bytes(size as u64));
        ratios.compare(
            &mut group,
            name,
            files,
            || {
                write_layer_tar(black_box(std::slice::from_ref(&path)), &root, io::sink())
                    .expect("a tar")
            },
            || baseline::tar(black_box(&directory), io::sink()).expect("a tar"),
        );
    }
    group.finish();
    ratios.print();
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let mut ratios = Ratios::default();
    let store = tempfile::tempdir().expect("a directory");
    let root = StoreRoot::new(store.path());
    let path: StorePath = "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-program"
        .parse()
        .expect("a path");
    let program = std::env::current_exe().expect("this program");
    let mut bytes = fs::read(program).expect("it can be read");
    bytes.truncate(8 << 20);
    let location = root.locate(&path);
    fs::create_dir_all(location.parent().expect("a store")).expect("it can be made");
    fs::write(location, &bytes).expect("it can be written");
    let packer = Packer::new(1);
    let paths = std::slice::from_ref(&path);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (codec, name) in [
        (Codec::Gzip, "gzip"),
        (Codec::GzipSingle, "gzip-single"),
        (Codec::Zstd, "zstd"),
    ] {
        ratios.compare(
            &mut group,
            name,
            1,
            || {
                packer
                    .pack_layer(black_box(paths), &root, codec, io::sink())
                    .expect("a layer")
            },
            || baseline_pack::pack(black_box(paths), &root, io::sink()).expect("a layer"),
        );
    }
    group.finish();
    ratios.print();
}

fn manifests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifest");
    let mut ratios = Ratios::default();
    for count in [1usize, 10, 94] {
        let layer = |i: usize| ImageLayer {
            digest: Digest::of(format!("digest {i}").as_bytes()),
            diff_id: Digest::of(format!("diff ID {i}").as_bytes()),
            size: 1_000_000 + i as u64,
            compression: Compression::Gzip,
            sharing: (i * 7 % 11) as u64,
            created_by: format!("nixery: package-{i}"),
            comment: None,
        };
        let layers: Vec<ImageLayer> = (0..count).map(layer).collect();
        let parts = || ImageParts {
            platform: Platform {
                os: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                variant: None,
            },
            layers: layers.clone(),
            root: None,
            config: RuntimeConfig::default(),
            annotations: Default::default(),
        };
        ratios.compare(
            &mut group,
            "assemble",
            count,
            || assemble(black_box(parts())).expect("an image"),
            || baseline::manifests(black_box(&layers)),
        );
    }
    group.finish();
    ratios.print();
}

criterion_group! { name = images; config = quick(); targets = names, tars, codecs, manifests }
criterion_main!(images);
