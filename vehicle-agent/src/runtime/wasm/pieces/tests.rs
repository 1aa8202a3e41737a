//! The same module whole and in pieces, in plain Wasmtime: same memory, same traps, and looks at the epoch in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use wasmtime::{Config, Engine, Instance, Module, Store, UpdateDeadline};

use super::*;

/// Functions that fill and copy as they are told, in a module with everything that has an index that must not move.
const TELL: &str = r#"(module
    (type $unused (func (result i64)))
    (memory (export "memory") 2)
    (table 2 funcref)
    (elem (i32.const 0) $fill $copy)
    (data (i32.const 100) "the quick brown fox jumps over the lazy dog")
    (func $fill (export "fill") (param i32 i32 i32)
        (memory.fill (local.get 0) (local.get 1) (local.get 2)))
    (func $copy (export "copy") (param i32 i32 i32)
        (memory.copy (local.get 0) (local.get 1) (local.get 2)))
    (func (export "both") (param i32 i32 i32)
        (call_indirect (param i32 i32 i32) (local.get 0) (local.get 1) (local.get 2) (i32.const 0))
        (call $copy (local.get 0) (local.get 1) (local.get 2))))"#;
/// Bytes of its memory.
const SIZE: u32 = 2 << 16;

struct Run {
    store: Store<()>,
    instance: Instance,
}

impl Run {
    fn new(module: &[u8]) -> Self {
        let engine = Engine::default();
        let module = Module::from_binary(&engine, module).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        Self { store, instance }
    }

    /// Whether it came to its end.
    fn call(&mut self, name: &str, operands: (u32, u32, u32)) -> bool {
        let function = self
            .instance
            .get_typed_func::<(u32, u32, u32), ()>(&mut self.store, name)
            .unwrap();
        function.call(&mut self.store, operands).is_ok()
    }

    fn memory(&mut self) -> Vec<u8> {
        let memory = self.instance.get_memory(&mut self.store, "memory").unwrap();
        memory.data(&self.store).to_vec()
    }
}

/// Anywhere, and often where it matters.
fn operand() -> impl Strategy<Value = u32> {
    prop_oneof![
        0_u32..300,
        0..=SIZE,
        (SIZE - 40)..(SIZE + 40),
        Just(u32::MAX),
        any::<u32>()
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn program_in_pieces_does_what_it_did(
        calls in prop::collection::vec((0..3_usize, operand(), operand(), operand()), 1..12),
        piece in prop_oneof![1_u32..40, Just(4096)],
    ) {
        let module = wat::parse_str(TELL).unwrap();
        let (mut whole, mut apart) = (Run::new(&module), Run::new(&taken_apart(&module, piece).unwrap()));
        for (which, to, from, count) in calls {
            let name = ["fill", "copy", "both"][which];
            // A piece of one byte over four gigabytes would take a while.
            let count = if count > 2 * SIZE { count | 0xff00_0000 } else { count };
            let ended = whole.call(name, (to, from, count));
            prop_assert_eq!(ended, apart.call(name, (to, from, count)));
            if !ended {
                return Ok(());
            }
            prop_assert!(whole.memory() == apart.memory(), "{} {} {} {}", name, to, from, count);
        }
    }
}

#[test]
fn program_is_asked_between_the_pieces() {
    let text = r#"(module (memory 1024)
        (func (export "run") (param i32)
            (memory.fill (i32.const 0) (i32.const 7) (local.get 0))
            (memory.copy (i32.const 0) (i32.const 64) (i32.sub (local.get 0) (i32.const 64)))))"#;
    let module = wat::parse_str(text).unwrap();
    let asked = |module: &[u8]| {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).unwrap();
        let mut store = Store::new(&engine, ());
        let times = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&times);
        store.set_epoch_deadline(0);
        store.epoch_deadline_callback(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(UpdateDeadline::Continue(0))
        });
        let module = Module::from_binary(&engine, module).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let run = instance.get_typed_func::<u32, ()>(&mut store, "run").unwrap();
        run.call(&mut store, 64 << 20).unwrap();
        times.load(Ordering::Relaxed)
    };
    assert_eq!(asked(&module), 3, "whole: at its entry and before each of the two");
    let apart = asked(&taken_apart(&module, PIECE).unwrap());
    assert!(apart > 120, "in pieces, for each of 64 MiB, twice: {apart}");
}

#[rstest::rstest]
#[case::small("(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 65536))))")]
#[case::nothing("(module (func))")]
#[case::addresses_of_64_bits(
    "(module (memory i64 1) (func (param i64) (memory.fill (i64.const 0) (i32.const 0) (local.get 0))))"
)]
fn module_without_large_ones_stays_as_it_is(#[case] text: &str) {
    assert_eq!(taken_apart(&wat::parse_str(text).unwrap(), PIECE), None);
}

#[test]
fn bytes_that_are_no_module_are_left_to_the_compiler() {
    assert_eq!(taken_apart(b"\0asm\x01\0\0\0\xff\xff", PIECE), None);
}
