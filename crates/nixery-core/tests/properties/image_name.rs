//! What holds of any bytes as an image name.

use nixery_core::{ImageName, MAX_NAME_LEN, MetaPackage, NameError, REQUIRED_PACKAGES};

/// Panics if a property does not hold.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match ImageName::parse(text) {
        Ok(name) => accepted(text, &name),
        Err(error) => {
            let legal = text.len() <= MAX_NAME_LEN && text.split('/').all(is_component);
            let no_packages = matches!(error, NameError::NoPackages { .. });
            assert_eq!(legal, no_packages, "{text:?}: {error}");
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

fn accepted(text: &str, name: &ImageName) {
    assert!(text.len() <= MAX_NAME_LEN, "{text:?}");
    assert!(text.split('/').all(is_component), "{text:?}");

    assert_eq!(name.to_string(), text);
    let again = ImageName::parse(&name.to_string()).expect("what is printed parses");
    assert_eq!(&again, name);

    let packages = name.packages();
    assert!(
        packages.is_sorted_by(|a, b| a < b),
        "sorted, each once: {packages:?}"
    );
    for required in REQUIRED_PACKAGES {
        assert!(packages.iter().any(|package| package == required));
    }

    // Any order of the same components, as long as the meta-packages stay in front.
    let components: Vec<_> = text.split('/').collect();
    let metas = components
        .iter()
        .take_while(|component| MetaPackage::find(component).is_some())
        .count();
    let (metas, rest) = components.split_at(metas);
    assert!(
        rest.iter()
            .all(|component| packages.iter().any(|package| package == component))
    );
    // With one in front, what was a package would become a meta-package.
    if !rest
        .iter()
        .any(|component| MetaPackage::find(component).is_some())
    {
        let reversed: Vec<_> = metas
            .iter()
            .rev()
            .chain(rest.iter().rev())
            .copied()
            .collect();
        let reversed = ImageName::parse(&reversed.join("/")).expect("order does not matter");
        assert_eq!(&reversed, name);
        assert_eq!(reversed.canonical(), name.canonical());
    }
    if metas.is_empty()
        && rest
            .iter()
            .all(|component| MetaPackage::find(component).is_none())
    {
        let canonical = ImageName::parse(name.canonical()).expect("a canonical name is a name");
        assert_eq!(&canonical, name);
    }
}

/// The specification's grammar, read off differently: letters and digits joined by separators.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_word = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let ends_are_words = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    ends_are_words
        && bytes.split(is_word).all(|joint| match joint {
            [] | [b'.'] | [b'_'] | [b'_', b'_'] => true,
            dashes => dashes.iter().all(|byte| *byte == b'-'),
        })
}
