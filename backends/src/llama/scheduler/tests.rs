use super::*;
use crate::llama::engine::Event;
use crate::llama::sampler::Sampling;
use crate::llama::{Settings, context::Shape, model::Token, support};
use tokio::sync::mpsc;

/// A scheduler of two slots over the small random model; steps are made by hand.
fn with(check: impl FnOnce(&mut Scheduler<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { threads: Some(1), ..Settings::new(support::tiny_model(folder.path())) };
    let model = Model::load(&settings).unwrap();
    let shape = Shape { cells: 2048, sequences: 8, batch: 512, step: 128, threads: 1 };
    let limits = Limits { context_tokens: 1024, slots: 2, queue: 8, threads: 1 };
    let stats = Stats::new();
    check(&mut Scheduler::new(&model, Context::new(&model, &settings, shape).unwrap(), limits, &stats));
}

/// Puts a greedy job into the queue.
fn submit(scheduler: &mut Scheduler<'_>, prompt: Vec<Token>, max_tokens: u32) -> mpsc::Receiver<Event> {
    let sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
        logprobs: Some(0),
    };
    let (events, receiver) = mpsc::channel(64);
    let job = Job { prompt, max_tokens: Some(max_tokens), stop: Vec::new(), sampling, constraint: None, tells_controls: false, events };
    scheduler.stats.waiting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    scheduler.waiting.push_back(job);
    receiver
}

fn turn(scheduler: &mut Scheduler<'_>) -> bool {
    scheduler.admit();
    let busy = scheduler.step();
    scheduler.part();
    scheduler.relieve();
    busy
}

/// The tokens of an answer, when everything has been answered.
fn read(scheduler: &mut Scheduler<'_>, mut events: mpsc::Receiver<Event>) -> Vec<Token> {
    while turn(scheduler) {}
    let mut answer = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Text { tokens, .. } => answer.extend(tokens.iter().map(|choice| choice.token)),
            Event::Failed { why } => panic!("{why}"),
            Event::Started { .. } | Event::Ended { .. } => {}
        }
    }
    assert!(!answer.is_empty());
    answer
}

/// A prompt of `length` tokens that shares no beginning with that of another `salt`.
fn prompt(length: usize, salt: usize) -> Vec<Token> {
    (0..length).map(|at| Token::try_from(20 + (at * 7 + salt * 31) % 200).unwrap()).collect()
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn a_step_that_everybody_left_is_stopped_and_taken_back() {
    let mut undisturbed = Vec::new();
    with(|scheduler| {
        let events = submit(scheduler, prompt(300, 1), 12);
        undisturbed = read(scheduler, events);
    });
    with(|scheduler| {
        // Two callers; they leave when their answers have begun, before the step that reads their prompts.
        let callers = [submit(scheduler, prompt(300, 1), 12), submit(scheduler, prompt(200, 2), 12)];
        scheduler.admit();
        assert_eq!((count(&scheduler.stats.busy), count(&scheduler.stats.waiting)), (2, 0));
        drop(callers);
        assert!(scheduler.step());
        assert_eq!(scheduler.running.iter().map(|sequence| (sequence.in_batch, sequence.done)).collect::<Vec<_>>(), [(300, 0), (200, 0)]);
        scheduler.part();
        assert_eq!((scheduler.running.len(), count(&scheduler.stats.cancelled), count(&scheduler.stats.failed)), (0, 2, 0));
        assert_eq!((scheduler.reuse.tokens(), count(&scheduler.stats.prefill_micros)), (0, 0));

        let events = submit(scheduler, prompt(300, 1), 12);
        assert_eq!(read(scheduler, events), undisturbed, "the next one finds nothing of it");
    });
}

#[test]
fn a_step_goes_on_for_who_stays() {
    with(|scheduler| {
        let alone = submit(scheduler, prompt(100, 1), 12);
        let alone = read(scheduler, alone);
        let (leaves, stays) = (submit(scheduler, prompt(200, 2), 12), submit(scheduler, prompt(100, 1), 12));
        scheduler.admit();
        drop(leaves);
        assert!(scheduler.step());
        assert!(scheduler.running.iter().all(|sequence| sequence.done > 0), "decoded");
        scheduler.part();
        assert_eq!(count(&scheduler.stats.cancelled), 1);
        assert_eq!(read(scheduler, stays), alone);
    });
}

/// Half an answer is there when its reader leaves in the middle of a step: that half is good for the next one.
#[test]
fn what_was_decoded_before_the_stopped_step_is_kept() {
    with(|scheduler| {
        let events = submit(scheduler, prompt(100, 1), 12);
        turn(scheduler);
        turn(scheduler);
        drop(events);
        assert!(scheduler.step());
        scheduler.part();
        assert_eq!((scheduler.running.len(), scheduler.reuse.tokens()), (0, 101), "the prompt and the token that was decoded");
    });
}

#[test]
fn what_begins_alone_has_the_cache_for_itself() {
    with(|scheduler| {
        let mut first = Vec::new();
        for salt in 1..=3 {
            let events = submit(scheduler, prompt(100, salt), 8);
            first.push(read(scheduler, events));
            assert_eq!(scheduler.reuse.tokens(), 107, "of the last answer only");
        }
        assert_eq!(scheduler.reuse.parked_tokens(), 2 * 107);
        for (salt, first) in (1..=3).zip(&first) {
            let events = submit(scheduler, prompt(100, salt), 8);
            let cached = count(&scheduler.stats.cached_tokens);
            assert_eq!(&read(scheduler, events), first, "{salt}");
            assert_eq!(count(&scheduler.stats.cached_tokens) - cached, 99, "{salt} comes back from plain memory");
        }
    });
}

/// However long: its next turn finds it there, without a copy. Beside a streaming answer it is too much.
#[test]
fn a_long_answer_stays_in_the_cache_unless_others_stream() {
    with(|scheduler| {
        for cached in [0, 699] {
            let before = count(&scheduler.stats.cached_tokens);
            let events = submit(scheduler, prompt(700, 1), 8);
            read(scheduler, events);
            assert_eq!((scheduler.reuse.tokens(), scheduler.reuse.parked_tokens()), (707, 0));
            assert_eq!(count(&scheduler.stats.cached_tokens) - before, cached);
        }
        let (short, long) = (submit(scheduler, prompt(700, 1), 4), submit(scheduler, prompt(40, 2), 40));
        read(scheduler, short);
        assert_eq!((scheduler.reuse.tokens(), scheduler.reuse.parked_tokens()), (79, 703));
        drop(long);
    });
}

#[test]
fn a_pause_leaves_the_last_answer_in_the_cache_and_a_copy_of_all() {
    with(|scheduler| {
        let together = [submit(scheduler, prompt(100, 1), 8), submit(scheduler, prompt(60, 2), 16)];
        let [_, longer] = together.map(|events| read(scheduler, events));
        assert_eq!((scheduler.reuse.tokens(), scheduler.reuse.parked_tokens()), (107 + 75, 0));
        while scheduler.reuse.tidy(&mut scheduler.context) {}
        assert_eq!((scheduler.reuse.tokens(), scheduler.reuse.parked_tokens()), (75, 107 + 75));
        // It has been laid anew: the same keys and values.
        let events = submit(scheduler, prompt(60, 2), 16);
        let cached = count(&scheduler.stats.cached_tokens);
        assert_eq!(read(scheduler, events), longer);
        assert_eq!(count(&scheduler.stats.cached_tokens) - cached, 59);
        assert_eq!(scheduler.reuse.tokens(), 75);
    });
}
