//! Stops a decode that nobody waits for any more.
//!
//! llama.cpp asks a callback behind every operation of its graph whether to give up: on the CPU and on Metal; other GPUs finish what they were
//! given. The callback belongs to a context's parameters, where the crate has no door to it.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_sys_2::llama_context_params;

/// Whether the running decode is still wanted. Asked a thousand times a step: it has to be quick.
pub(crate) type Wanted<'a> = dyn Fn() -> bool + Sync + 'a;

/// What a context's callback looks at: a `&Wanted` on the stack of who decodes, or null. Has one address for all its life.
#[derive(Debug, Default)]
pub(crate) struct Abort(Arc<AtomicPtr<c_void>>);

impl Abort {
    /// The parameters of a context that asks. It has to be dropped before this is.
    pub(crate) fn known_to(&self, mut params: LlamaContextParams) -> LlamaContextParams {
        const { assert!(size_of::<LlamaContextParams>() == size_of::<llama_context_params>()) };
        const { assert!(align_of::<LlamaContextParams>() == align_of::<llama_context_params>()) };
        // SAFETY: the crate's type (of a pinned version) has this one field, private, and is of its size: there is no room for the
        // field to begin anywhere but at the beginning.
        let raw = unsafe { &mut *(&raw mut params).cast::<llama_context_params>() };
        raw.abort_callback = Some(unwanted);
        raw.abort_callback_data = Arc::as_ptr(&self.0).cast_mut().cast();
        params
    }

    /// Decodes, and is stopped where that is not wanted any more.
    pub(crate) fn during<T>(&self, wanted: &Wanted<'_>, decode: impl FnOnce() -> T) -> T {
        // A reference to the reference: a pointer to `dyn` has two words, and one is what fits into an atomic.
        self.0.store((&raw const wanted).cast_mut().cast(), Ordering::Release);
        let _answered = Answered(&self.0);
        decode()
    }
}

/// Takes the question back however the decode ends.
struct Answered<'a>(&'a AtomicPtr<c_void>);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        self.0.store(null_mut(), Ordering::Release);
    }
}

unsafe extern "C" fn unwanted(slot: *mut c_void) -> bool {
    // SAFETY: `known_to` gave the address of the atomic, which outlives the context.
    let slot = unsafe { &*slot.cast_const().cast::<AtomicPtr<c_void>>() };
    let question = slot.load(Ordering::Acquire).cast_const().cast::<&Wanted<'_>>();
    // SAFETY: null, or set by `during`, on whose stack it lies until the decode that asks has returned.
    unsafe { question.as_ref() }.is_some_and(|wanted| !wanted())
}
