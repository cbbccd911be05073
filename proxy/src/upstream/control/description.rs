use bytestring::ByteString;
use outrigger_filters::{batch::Batchable, inference::Signature};

/// A model as its server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Whether it takes batches.
    pub batchable: Batchable,
    /// What it takes and gives, by the signature's name: all signatures of a model of TensorFlow
    /// Serving, and of other servers the one that a model has, by an empty name. None where the
    /// server does not say.
    pub signatures: Vec<(ByteString, Signature)>,
    /// The versions that are served, as far as the server says.
    pub versions: Vec<ByteString>,
    /// The framework, where the server names it.
    pub platform: ByteString,
    /// Whether tensors go to and fro in binary form over REST; of other protocols this says
    /// nothing.
    pub binary: bool,
}

impl Description {
    /// Returns a signature by its name; the default one is asked for by an empty name or by the
    /// one that TensorFlow gives it.
    pub fn signature(&self, name: &str) -> Option<&Signature> {
        let wanted = canonical(name);
        self.signatures
            .iter()
            .find_map(|(name, signature)| (canonical(name) == wanted).then_some(signature))
    }
}

impl Default for Description {
    /// Makes the description by a server that says nothing.
    fn default() -> Self {
        Self {
            batchable: Batchable::Unknown,
            signatures: Vec::new(),
            versions: Vec::new(),
            platform: ByteString::new(),
            binary: false,
        }
    }
}

fn canonical(name: &str) -> &str {
    if name == SERVING_DEFAULT { "" } else { name }
}

/// The signature that TensorFlow Serving takes where a request names none.
pub(crate) const SERVING_DEFAULT: &str = "serving_default";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_signature_has_two_names() {
        let other = Signature::default();
        for name in ["", SERVING_DEFAULT] {
            let described = Description {
                signatures: vec![
                    ("other".into(), other.clone()),
                    (name.into(), Signature::default()),
                ],
                ..Description::default()
            };
            let default = &described.signatures[1].1;
            for asked in ["", SERVING_DEFAULT] {
                let found = described.signature(asked).expect("it is there");
                assert!(std::ptr::eq(found, default), "{asked}");
            }
            assert_eq!(described.signature("other"), Some(&other));
            assert_eq!(described.signature("nobody's"), None);
        }
    }
}
