//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use outrigger_native::{Curve, Fault, Faults, Jitter, Synthetic};

pub(crate) const USAGE: &str = "\
Usage: outrigger-native [OPTIONS]

Options:
  --listen ADDR       where to listen [default: 127.0.0.1:0]
  --threads N         threads that serve connections [default: 1]
  --port-file FILE    where to write the port once it is known
  --digits            serve the five digit classifiers
  --forests N         serve so many random forests of the digits, which are alike
  --dialects          serve the classifiers of digits that are turned and mirrored
  --overhead US       microseconds that each call of a digit classifier takes besides [default: 0]
  --labour US         microseconds of a processor that each row of a digit classifier takes besides,
                      used up and not waited out [default: 0]
  --concurrency N     calls that each digit classifier executes at the same time [default: 1]
  --stragglers SHARE,LEAST,MOST
                      so many of the calls of digit classifiers take milliseconds longer: for
                      example 0.02,20,150
  --synthetic MODEL   serve a model that computes nothing; may be given several times
  --help              print this

MODEL is CURVE[:SCALE][,KEY=VALUE]..., for example linear_svm:0.5,concurrency=2
  CURVE     echo (no cost), noop, logistic_regression, linear_svm, pyspark_svm,
            random_forest, kernel_svm
  SCALE     a factor on its cost [default: 1]
  KEY       name [default: the curve's], concurrency, max_batch_size, batchable (true, false),
            beta and alpha (microseconds, in place of the curve's), seed,
            uniform, exponential, lognormal (jitter with this parameter)";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) listen: String,
    pub(crate) threads: usize,
    pub(crate) port_file: Option<PathBuf>,
    pub(crate) digits: bool,
    pub(crate) forests: usize,
    pub(crate) dialects: bool,
    pub(crate) overhead: Curve,
    pub(crate) labour: Curve,
    pub(crate) concurrency: usize,
    pub(crate) stragglers: Faults,
    pub(crate) synthetic: Vec<Synthetic>,
    pub(crate) help: bool,
}

impl Args {
    /// Reads the arguments behind the program's name.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            listen: "127.0.0.1:0".to_owned(),
            threads: 1,
            port_file: None,
            digits: false,
            forests: 0,
            dialects: false,
            overhead: Curve::ZERO,
            labour: Curve::ZERO,
            concurrency: 1,
            stragglers: Faults::none(),
            synthetic: Vec::new(),
            help: false,
        };
        let mut arguments = arguments;
        while let Some(option) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{option} needs a value"))
            };
            match option.as_str() {
                "--listen" => args.listen = value()?,
                "--threads" => args.threads = parse(&option, &value()?)?,
                "--port-file" => args.port_file = Some(value()?.into()),
                "--digits" => args.digits = true,
                "--forests" => args.forests = parse(&option, &value()?)?,
                "--dialects" => args.dialects = true,
                "--synthetic" => args.synthetic.push(synthetic(&value()?)?),
                "--overhead" => args.overhead.beta = microseconds(&option, &value()?)?,
                "--labour" => args.labour.alpha = microseconds(&option, &value()?)?,
                "--concurrency" => args.concurrency = parse(&option, &value()?)?,
                "--stragglers" => args.stragglers = stragglers(&value()?)?,
                "--help" | "-h" => args.help = true,
                _ => return Err(format!("unknown option {option}")),
            }
        }
        Ok(args)
    }
}

fn synthetic(text: &str) -> Result<Synthetic, String> {
    let mut parts = text.split(',');
    let curve = parts.next().unwrap_or_default();
    let (name, scale) = match curve.split_once(':') {
        Some((name, scale)) => (name, parse("the scale", scale)?),
        None => (curve, 1.0),
    };
    let named = if name == "echo" {
        Some(Curve::ZERO)
    } else {
        Curve::named(name)
    };
    let curve = named.ok_or_else(|| format!("unknown curve {name}"))?;
    if !(0.0..=MAX_SCALE).contains(&scale) {
        return Err(format!("the scale must be between 0 and {MAX_SCALE}"));
    }
    let mut model = Synthetic {
        curve: curve.scaled(scale),
        ..Synthetic::new(name)
    };
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part} has no value"))?;
        match key {
            "name" => model.name = value.to_owned(),
            "concurrency" => model.concurrency = parse(key, value)?,
            "max_batch_size" => model.max_batch_size = parse(key, value)?,
            "batchable" => model.batchable = parse(key, value)?,
            "seed" => model.seed = parse(key, value)?,
            "beta" => model.curve.beta = microseconds(key, value)?,
            "alpha" => model.curve.alpha = microseconds(key, value)?,
            "uniform" => model.jitter = Jitter::Uniform(parse(key, value)?),
            "exponential" => model.jitter = Jitter::Exponential(parse(key, value)?),
            "lognormal" => model.jitter = Jitter::LogNormal(parse(key, value)?),
            _ => return Err(format!("unknown key {key}")),
        }
    }
    Ok(model)
}

/// Reads a share, and the least and the most milliseconds.
fn stragglers(text: &str) -> Result<Faults, String> {
    let what = "--stragglers";
    let [share, least, most] = text.split(',').collect::<Vec<_>>()[..] else {
        return Err(format!("{what} needs a share and two times, not {text}"));
    };
    let share: f64 = parse(what, share)?;
    let milliseconds = |text: &str| {
        let milliseconds: f64 = parse(what, text)?;
        Duration::try_from_secs_f64(milliseconds / 1e3).map_err(|error| format!("{what}: {error}"))
    };
    let fault = Fault::Straggle(milliseconds(least)?, milliseconds(most)?);
    Ok(Faults::at_rate(share, fault))
}

fn microseconds(key: &str, value: &str) -> Result<Duration, String> {
    let microseconds: f64 = parse(key, value)?;
    Duration::try_from_secs_f64(microseconds / 1e6).map_err(|error| format!("{key}: {error}"))
}

fn parse<T: FromStr>(what: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{what} cannot be {value}"))
}

/// Beyond this a scale is a slip of the pen.
const MAX_SCALE: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_model_is_a_curve_a_scale_and_what_is_said_besides() {
        let line =
            "--synthetic linear_svm:0.5,concurrency=2,name=svm,lognormal=0.3 --synthetic echo";
        let args = args(line).expect("it is well formed");
        let [svm, echo] = &args.synthetic[..] else {
            panic!("two models: {args:?}")
        };
        assert_eq!(svm.name, "svm");
        assert_eq!(svm.curve, Curve::LINEAR_SVM.scaled(0.5));
        assert_eq!(svm.concurrency, 2);
        assert_eq!(svm.jitter, Jitter::LogNormal(0.3));
        assert_eq!(echo.curve, Curve::ZERO);
    }

    #[test]
    fn a_slip_is_named() {
        for (line, named) in [
            ("--synthetic quantum", "quantum"),
            ("--synthetic noop:much", "much"),
            ("--synthetic noop:-1", "scale"),
            ("--synthetic noop,speed=3", "speed"),
            ("--synthetic noop,beta=-3", "beta"),
            ("--threads", "--threads"),
            ("--stragglers 0.1", "--stragglers"),
            ("--stragglers 0.1,20,-1", "--stragglers"),
            ("--verbose", "--verbose"),
        ] {
            let error = args(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
