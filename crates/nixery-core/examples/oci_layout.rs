//! Packs store paths into an image, as an OCI layout.
//!
//! ```text
//! cargo run -p nixery-core --example oci_layout -- PATH-INFO STORE-ROOT OUT PACKAGE…
//! ```
//!
//! PATH-INFO is a file with the output of `nix path-info --json --recursive` for the packages.
//! STORE-ROOT is the folder that stands for `/`: `/` itself, or the root of another store. The
//! layout is written to the folder OUT; `skopeo inspect oci:OUT` reads it. PACKAGE… are store
//! paths, which the image links to from `/bin` and its other folders.
//!
//! Without arguments, the example packs a tiny store that it makes in a temporary folder.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nixery_core::manifest::{
    AssembledImage, Digest, ImageLayer, ImageParts, Index, Platform, RuntimeConfig, assemble,
};
use nixery_core::{
    Codec, DEFAULT_BUDGET, LayerStrategy, PackedLayer, Packer, ReferenceGraph, RootLayer, Size,
    StorePath, StoreRoot,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            let folder = tempfile::tempdir()?;
            let (json, packages) = make_store(folder.path())?;
            let store = StoreRoot::new(folder.path());
            write_layout(
                json.as_bytes(),
                &packages,
                &store,
                &folder.path().join("image"),
            )
        }
        [json, root, out, packages @ ..] if !packages.is_empty() => {
            let packages: Vec<StorePath> = packages
                .iter()
                .map(|package| StorePath::parse(package))
                .collect::<Result<_, _>>()?;
            write_layout(
                &fs::read(json)?,
                &packages,
                &StoreRoot::new(root),
                Path::new(out),
            )
        }
        _ => Err("usage: oci_layout PATH-INFO STORE-ROOT OUT PACKAGE…".into()),
    }
}

/// Packs the closure of `packages` and writes the image to the folder `out`.
fn write_layout(
    json: &[u8],
    packages: &[StorePath],
    store: &StoreRoot,
    out: &Path,
) -> Result<(), Box<dyn Error>> {
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;

    // Which store paths share a layer. The root layer takes one layer of the budget.
    let graph = ReferenceGraph::from_json(json, packages)?;
    let budget = (DEFAULT_BUDGET.get() - 1).try_into()?;
    let plan = Size.plan(&graph, budget);
    plan.check(&graph, budget)?;

    // The name of a blob is its digest, which is known when it is written.
    let spool = out.join("layer.tmp");
    let keep = |digest: &Digest| fs::rename(&spool, blobs.join(digest.hex()));
    let packer = Packer::new(std::thread::available_parallelism()?.get());
    let mut layers = Vec::new();
    for layer in &plan.layers {
        let paths = layer.paths.iter().map(|&id| graph.node(id).path.clone());
        let paths: Vec<StorePath> = paths.collect();
        let (packed, _) = packer.pack_layer(&paths, store, Codec::Gzip, File::create(&spool)?)?;
        keep(&packed.digest)?;
        println!("{}  {} bytes  {}", packed.digest, packed.size, layer.reason);
        layers.push(image_layer(packed, layer.rating, &layer.reason));
    }
    let links = RootLayer::plan(packages, store)?;
    let (packed, _) = packer.pack_root_layer(&links, Codec::Gzip, File::create(&spool)?)?;
    keep(&packed.digest)?;
    println!(
        "{}  {} bytes  links to the packages",
        packed.digest, packed.size
    );
    let root = image_layer(packed, 0, "links to the packages");

    let image = assemble(ImageParts {
        platform: Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
        },
        layers,
        root: Some(root),
        config: RuntimeConfig {
            env: vec!["PATH=/bin".to_owned()],
            ..RuntimeConfig::default()
        },
        annotations: BTreeMap::new(),
    })?;
    write_documents(&image, out, &blobs)?;
    println!(
        "image {} with {} layers",
        image.oci.digest,
        image.layers.len()
    );
    Ok(())
}

fn image_layer(packed: PackedLayer, sharing: u64, contents: &str) -> ImageLayer {
    ImageLayer {
        digest: packed.digest,
        diff_id: packed.diff_id,
        size: packed.size,
        compression: packed.compression,
        sharing,
        created_by: "oci_layout".to_owned(),
        comment: Some(contents.to_owned()),
    }
}

/// Writes the config, the manifest and the two files that make a folder an OCI layout.
fn write_documents(image: &AssembledImage, out: &Path, blobs: &Path) -> Result<(), Box<dyn Error>> {
    for document in [&image.config, &image.oci] {
        fs::write(blobs.join(document.digest.hex()), &document.bytes)?;
    }
    let mut manifest = image.oci.descriptor();
    let tag = "org.opencontainers.image.ref.name".to_owned();
    manifest.annotations.insert(tag, "latest".to_owned());
    fs::write(
        out.join("index.json"),
        Index::new(vec![manifest]).to_bytes(),
    )?;
    fs::write(out.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Makes a store of two paths, of which one refers to the other. Returns what `nix path-info`
/// prints about them, and the package.
fn make_store(root: &Path) -> Result<(String, Vec<StorePath>), Box<dyn Error>> {
    let hello = "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-hello-2.12";
    let data = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-hello-data-2.12";
    let physical = |path: &str| root.join(path.trim_start_matches('/'));

    let bin = physical(hello).join("bin");
    fs::create_dir_all(&bin)?;
    fs::write(
        bin.join("hello"),
        format!("#!/bin/sh\ncat {data}/greeting\n"),
    )?;
    fs::set_permissions(bin.join("hello"), fs::Permissions::from_mode(0o755))?;
    fs::create_dir_all(physical(data))?;
    fs::write(physical(data).join("greeting"), "Hello, world!\n")?;

    let json = format!(
        r#"{{ "{hello}": {{ "narSize": 600, "references": ["{data}"] }},
             "{data}": {{ "narSize": 300, "references": [] }} }}"#
    );
    Ok((json, vec![StorePath::parse(hello)?]))
}
