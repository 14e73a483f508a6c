//! The strings of a JSON input as places in it: eight bytes each, since a large graph has many and is bound by memory.

use std::fmt;
use std::num::NonZeroU32;

use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

/// A string of one [`Texts`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    start: u32,
    /// Never 0: before each string comes a quote.
    end: NonZeroU32,
}

impl Text {
    /// Its bytes.
    pub(crate) fn len(self) -> usize {
        (self.end.get() - self.start) as usize
    }
}

/// What [`Text`]s are places in: the input, followed by what is not in it as it is, like strings with escapes.
#[derive(Debug, Default)]
pub(crate) struct Texts<'a> {
    /// Empty where the input is not UTF-8: then nothing is borrowed from it.
    input: &'a str,
    added: String,
}

impl<'a> Texts<'a> {
    pub(crate) fn of(input: &'a str) -> Self {
        Self {
            input,
            added: String::new(),
        }
    }

    pub(crate) fn get(&self, text: Text) -> &str {
        let (start, end) = (text.start as usize, text.end.get() as usize);
        match start.checked_sub(self.input.len()) {
            None => &self.input[start..end],
            Some(start) => &self.added[start..end - self.input.len()],
        }
    }

    /// Makes a string one of these.
    ///
    /// # Errors
    /// They are 4 GiB or more together.
    pub(crate) fn add<E: Error>(&mut self, text: &str) -> Result<Text, E> {
        // A byte between them keeps `end` above 0 where all is empty.
        self.added.push('\0');
        let start = self.input.len() + self.added.len();
        let place = place(start, text)?;
        self.added.push_str(text);
        Ok(place)
    }

    /// Finds a part of the input in it.
    fn borrow<E: Error>(&mut self, text: &str) -> Result<Text, E> {
        let start = (text.as_ptr() as usize).wrapping_sub(self.input.as_ptr() as usize);
        match start < self.input.len() {
            true => place(start, text),
            false => self.add(text),
        }
    }
}

fn place<E: Error>(start: usize, text: &str) -> Result<Text, E> {
    let end = u32::try_from(start + text.len()).ok();
    let end = end.and_then(NonZeroU32::new);
    let end = end.ok_or_else(|| E::custom("the input has 4 GiB of text or more"))?;
    // What ends within bounds starts there.
    let start = start as u32;
    Ok(Text { start, end })
}

impl<'de> DeserializeSeed<'de> for &mut Texts<'de> {
    type Value = Text;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for &mut Texts<'de> {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text, E> {
        self.borrow(text)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        self.add(text)
    }
}

/// A string, or `null`.
pub(crate) struct OptionalText<'t, 'a>(pub(crate) &'t mut Texts<'a>);

impl<'de> DeserializeSeed<'de> for OptionalText<'_, 'de> {
    type Value = Option<Text>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for OptionalText<'_, 'de> {
    type Value = Option<Text>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}
