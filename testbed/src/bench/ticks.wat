;; Computes without a pause, and says what time it is every 2 ms, in nanoseconds. `ticks.wasm` is this, compiled: a test in `returns` checks
;; it, and makes it anew with MAKE=1.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $now i64) (local $last i64) (local $at i32) (local $spun i32)
    ;; What is written is at 32: 19 digits and the end of a line.
    (i32.store (i32.const 16) (i32.const 32))
    (i32.store (i32.const 20) (i32.const 20))
    (i32.store8 (i32.const 51) (i32.const 10))
    (loop $for_ever
      (local.set $spun (i32.const 0))
      (loop $spin
        (local.set $spun (i32.add (local.get $spun) (i32.const 1)))
        (br_if $spin (i32.lt_u (local.get $spun) (i32.const 50000))))
      (drop (call $time (i32.const 0) (i64.const 1) (i32.const 0)))
      (local.set $now (i64.load (i32.const 0)))
      (br_if $for_ever (i64.lt_u (i64.sub (local.get $now) (local.get $last)) (i64.const 2000000)))
      (local.set $last (local.get $now))
      (local.set $at (i32.const 50))
      (loop $digits
        (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $now) (i64.const 10)))))
        (local.set $now (i64.div_u (local.get $now) (i64.const 10)))
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (br_if $digits (i32.ge_u (local.get $at) (i32.const 32))))
      (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
      (br $for_ever))))
