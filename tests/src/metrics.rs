//! Reads the metrics page as a collector does, and complains of what a collector would.

use std::collections::BTreeMap;

/// What a metrics page says.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// The type of each family.
    pub families: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads a page of OpenMetrics 1.0.
    ///
    /// # Errors
    ///
    /// Says which line breaks which rule.
    pub fn read(text: &str) -> Result<Self, String> {
        let body = text
            .strip_suffix("# EOF\n")
            .ok_or("the page does not end with EOF")?;
        let mut metrics = Self::default();
        for line in body.lines() {
            let wrong = |rule: &str| format!("{rule}: {line}");
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name) = (words.next(), words.next());
                match (kind, name, words.next()) {
                    (Some("TYPE"), Some(name), Some(of)) => {
                        let last = metrics.families.insert(name.to_owned(), of.to_owned());
                        if last.is_some() {
                            return Err(wrong("a family stands twice"));
                        }
                    }
                    (Some("HELP" | "UNIT"), Some(_), Some(_)) => {}
                    _ => return Err(wrong("no comment of the format")),
                }
                continue;
            }
            let sample = sample(line).ok_or_else(|| wrong("no sample"))?;
            let family = metrics
                .family(&sample.name)
                .ok_or_else(|| wrong("a sample without a family"))?;
            let of = &metrics.families[&family];
            let suffix = &sample.name[family.len()..];
            let suffixes: &[&str] = match of.as_str() {
                "counter" => &["_total", "_created"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_count", "_sum", "_created"],
                _ => return Err(wrong("a type that we do not use")),
            };
            if !suffixes.contains(&suffix) {
                return Err(wrong("a suffix that the type does not have"));
            }
            metrics.samples.push(sample);
        }
        metrics.check_histograms()?;
        Ok(metrics)
    }

    /// Returns the sum of the samples of a name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Tells whether there is a sample of a name with these labels, and no others besides `le`.
    pub fn has(&self, name: &str, labels: &[&str]) -> bool {
        self.samples.iter().any(|sample| {
            sample.name == name
                && sample.labels.keys().filter(|label| *label != "le").count() == labels.len()
                && labels
                    .iter()
                    .all(|label| sample.labels.contains_key(*label))
        })
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|is| is == value))
        })
    }

    fn family(&self, sample: &str) -> Option<String> {
        let ends = ["", "_total", "_created", "_bucket", "_count", "_sum"];
        ends.iter()
            .filter_map(|end| sample.strip_suffix(end))
            .find(|family| self.families.contains_key(*family))
            .map(str::to_owned)
    }

    /// Buckets are cumulative, and the last one is the count.
    fn check_histograms(&self) -> Result<(), String> {
        for count in self.samples.iter().filter(|sample| {
            sample
                .name
                .strip_suffix("_count")
                .is_some_and(|family| self.families.contains_key(family))
        }) {
            let family = count.name.trim_end_matches("_count");
            let mut last = 0.;
            let mut whole = None;
            for bucket in self.samples.iter().filter(|sample| {
                sample.name == format!("{family}_bucket") && {
                    let mut labels = sample.labels.clone();
                    labels.remove("le");
                    labels == count.labels
                }
            }) {
                if bucket.value < last {
                    return Err(format!("buckets of {family} shrink"));
                }
                last = bucket.value;
                if bucket.labels.get("le").is_some_and(|le| le == "+Inf") {
                    whole = Some(bucket.value);
                }
            }
            if whole != Some(count.value) {
                return Err(format!("{family} counts {} of {whole:?}", count.value));
            }
        }
        Ok(())
    }
}

/// Reads `name{label="value",...} number`.
fn sample(line: &str) -> Option<Sample> {
    let name_len = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_len);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut characters = quoted.char_indices();
            let end = loop {
                match characters.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(characters.next()?.1),
                    (_, other) => value.push(other),
                }
            };
            if labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = &quoted[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}
