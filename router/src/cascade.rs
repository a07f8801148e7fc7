//! What a local answer's first tokens say about the rest: the model's own doubt, before anything is committed.

use spectra_backends::Edit;
use spectra_config as config;

/// When to give up on an answer that has just begun.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cascade {
    band: (f32, f32),
    tokens: u32,
    least_logprob: Option<f32>,
    least_margin: Option<f32>,
}

/// What is to be done with an answer that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Too few tokens yet: hold it back.
    Wait,
    /// It may go on; nothing is known against it.
    On,
    /// The model doubts its own words: ask the next one.
    Escalate,
}

impl Cascade {
    #[expect(clippy::cast_possible_truncation, reason = "shares and log probabilities need no more than single precision")]
    pub(crate) fn new(config: &config::Cascade) -> Self {
        Self {
            band: (config.band.0 as f32, config.band.1 as f32),
            tokens: config.tokens,
            least_logprob: config.min_mean_logprob.map(|least| least as f32),
            least_margin: config.min_mean_margin.map(|least| least as f32),
        }
    }

    /// What the model is asked for besides, so that it tells how sure it is.
    pub(crate) fn asks(&self) -> Vec<Edit> {
        let mut edits = vec![Edit::Set("logprobs", "true".to_owned())];
        if self.least_margin.is_some() {
            edits.push(Edit::Set("top_logprobs", "2".to_owned()));
        }
        edits
    }

    /// True for a request that is neither surely fit for the local model nor surely unfit.
    pub(crate) fn doubts(&self, p_local: f32) -> bool {
        (self.band.0..=self.band.1).contains(&p_local)
    }

    /// `sureness`: tokens so far, their mean log probability and mean margin; `None` where the model does not say. An answer that ends
    /// earlier is looked at as it is.
    pub(crate) fn look(&self, sureness: Option<(u32, f32, Option<f32>)>, ended: bool) -> Look {
        let Some((tokens, logprob, margin)) = sureness else { return Look::On };
        if tokens < self.tokens && !ended {
            return Look::Wait;
        }
        let low = self.least_logprob.is_some_and(|least| logprob < least);
        let close = self.least_margin.is_some_and(|least| margin.is_some_and(|margin| margin < least));
        if low || close { Look::Escalate } else { Look::On }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tokens_decide_once_there_are_enough() {
        let cascade =
            Cascade::new(&config::Cascade { tokens: 4, min_mean_logprob: Some(-1.0), min_mean_margin: Some(0.5), ..Default::default() });
        for (sureness, ended, expected) in [
            (None, true, Look::On),
            (Some((3, -9.0, Some(0.0))), false, Look::Wait),
            (Some((3, -9.0, Some(0.0))), true, Look::Escalate),
            (Some((3, -0.1, Some(0.9))), true, Look::On),
            (Some((4, -0.9, Some(0.6))), false, Look::On),
            (Some((4, -0.9, None)), false, Look::On),
            (Some((4, -1.1, Some(0.6))), false, Look::Escalate),
            (Some((9, -0.1, Some(0.4))), false, Look::Escalate),
        ] {
            assert_eq!(cascade.look(sureness, ended), expected, "{sureness:?}");
        }
        assert!(cascade.doubts(0.5) && !cascade.doubts(0.95) && !cascade.doubts(0.1));
    }
}
