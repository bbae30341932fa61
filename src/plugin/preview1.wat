;; WASI preview 1 for core modules, without anything of WASI behind it: compilers
;; of whole languages put calls of it into everything that they make.
;;
;; There are no files, arguments or variables, and time stands nearly still. What
;; is written to the standard streams goes to `log`, and random numbers come from
;; `random`, if the module imports those; else the one is dropped and the other
;; an error. What may be called while memory is asked for (cabi_realloc) calls
;; nobody: the component model forbids it, and Go reads the clock there.
(module
  (import "env" "memory" (memory 0))
  (;imports;)

  ;; Nanoseconds: of the world, since 1970, and since the start.
  (global $now (mut i64) (i64.const 0))
  (global $monotonic (mut i64) (i64.const 0))

  ;; Errors: bad descriptor, not supported, invalid argument.
  (global $badf i32 (i32.const 8))
  (global $notsup i32 (i32.const 58))
  (global $inval i32 (i32.const 28))

  (func $pass_time (param $by i64)
    (global.set $now (i64.add (global.get $now) (local.get $by)))
    (global.set $monotonic (i64.add (global.get $monotonic) (local.get $by))))

  ;; Ours: what time it is. The monotonic clock does not follow.
  (func (export "wayleave_clock_set") (param $now i64)
    (global.set $now (local.get $now)))

  ;; Two readings differ, since programs divide by the difference.
  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $out i32) (result i32)
    (call $pass_time (i64.const 1000))
    (i64.store (local.get $out)
      (select (global.get $monotonic) (global.get $now) (local.get $clock)))
    (i32.const 0))
  (func (export "clock_res_get") (param $clock i32) (param $out i32) (result i32)
    (i64.store (local.get $out) (i64.const 1000))
    (i32.const 0))

  ;; Waiting takes no time: the clock is put on instead. Of several things that
  ;; are waited for, the clock is what happens; a file never does.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $n i32) (param $events i32) (result i32)
    (local $error i32)
    (if (i32.eqz (local.get $n)) (then (return (global.get $inval))))
    (local.set $error (global.get $badf))
    (block $found
      (loop $next
        (if (i32.eqz (i32.load8_u offset=8 (local.get $in)))
          (then
            (local.set $error (i32.const 0))
            (call $wait (local.get $in))
            (br $found)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br_if $found (i32.eqz (local.get $n)))
        (local.set $in (i32.add (local.get $in) (i32.const 48)))
        (br $next)))
    (i64.store (local.get $out) (i64.load (local.get $in)))
    (i64.store offset=8 (local.get $out) (i64.const 0))
    (i32.store16 offset=8 (local.get $out) (local.get $error))
    (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $in)))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i64.store offset=24 (local.get $out) (i64.const 0))
    (i32.store (local.get $events) (i32.const 1))
    (i32.const 0))
  (func $wait (param $in i32)
    (local $time i64)
    (local.set $time (i64.load offset=24 (local.get $in)))
    ;; A moment, not a span: the way to it.
    (if (i32.and (i32.load16_u offset=40 (local.get $in)) (i32.const 1))
      (then
        (local.set $time (i64.sub (local.get $time)
          (select (global.get $monotonic) (global.get $now) (i32.load offset=16 (local.get $in)))))))
    (if (i64.gt_s (local.get $time) (i64.const 0))
      (then (call $pass_time (local.get $time)))))

  (func (export "random_get") (param $at i32) (param $length i32) (result i32)
    (local $number i64)
    (if (i32.eqz (global.get $is_random)) (then (return (global.get $notsup))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $length)))
        ;; Seven bytes at once; above them a mark tells when they are used up.
        (if (i64.le_u (local.get $number) (i64.const 1))
          (then
            (local.set $number (i64.or (i64.shr_u (call $number) (i64.const 8)) (i64.const 0x100000000000000)))))
        (i32.store8 (local.get $at) (i32.wrap_i64 (local.get $number)))
        (local.set $number (i64.shr_u (local.get $number) (i64.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; Ours: memory in which a line is put together that comes in pieces. Without
  ;; it each piece is a line. (These are i64, since an i32 that changes would be
  ;; taken for a stack's pointer.)
  (global $line (mut i64) (i64.const 0))
  (global $room (mut i64) (i64.const 0))
  (global $used (mut i64) (i64.const 0))
  (global $level (mut i64) (i64.const 0))
  (func (export "wayleave_line_buffer") (param $at i32) (param $length i32)
    (global.set $line (i64.extend_i32_u (local.get $at)))
    (global.set $room (i64.extend_i32_u (local.get $length)))
    (global.set $used (i64.const 0)))

  (func $say (param $at i32) (param $length i32)
    (if (local.get $length)
      (then (call $log (i32.wrap_i64 (global.get $level)) (local.get $at) (local.get $length)))))
  (func $flush
    (call $say (i32.wrap_i64 (global.get $line)) (i32.wrap_i64 (global.get $used)))
    (global.set $used (i64.const 0)))
  (func $collect (param $byte i32)
    (if (i32.eq (local.get $byte) (i32.const 10)) (then (call $flush) (return)))
    (if (i64.eq (global.get $used) (global.get $room)) (then (call $flush)))
    (i32.store8 (i32.wrap_i64 (i64.add (global.get $line) (global.get $used))) (local.get $byte))
    (global.set $used (i64.add (global.get $used) (i64.const 1))))
  (func $write (param $at i32) (param $length i32)
    (if (i32.eqz (local.get $length)) (then (return)))
    (if (i64.eqz (global.get $room))
      (then
        ;; The end of the line belongs to the log.
        (call $say (local.get $at)
          (i32.sub (local.get $length)
            (i32.eq (i32.const 10)
              (i32.load8_u (i32.sub (i32.add (local.get $at) (local.get $length)) (i32.const 1))))))
        (return)))
    (loop $next
      (call $collect (i32.load8_u (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (local.tee $length (i32.sub (local.get $length) (i32.const 1))))))

  (func (export "fd_write") (param $fd i32) (param $part i32) (param $n i32) (param $out i32) (result i32)
    (local $sum i32) (local $level i64)
    (if (i32.eqz (i32.or (i32.eq (local.get $fd) (i32.const 1)) (i32.eq (local.get $fd) (i32.const 2))))
      (then (return (global.get $badf))))
    ;; Info for the one stream, error for the other.
    (local.set $level (select (i64.const 1) (i64.const 3) (i32.eq (local.get $fd) (i32.const 1))))
    (if (i64.ne (local.get $level) (global.get $level))
      (then
        (call $flush)
        (global.set $level (local.get $level))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $n)))
        (call $write (i32.load (local.get $part)) (i32.load offset=4 (local.get $part)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $part))))
        (local.set $part (i32.add (local.get $part) (i32.const 8)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $out) (local.get $sum))
    (i32.const 0))

  (func (export "proc_exit") (param i32) (call $flush) (unreachable))
  (func (export "proc_raise") (param i32) (result i32) (unreachable))
  (func (export "sched_yield") (result i32) (i32.const 0))

  ;; No arguments and no variables.
  (func $none (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))
  (func $nothing (param i32 i32) (result i32) (i32.const 0))
  (export "args_sizes_get" (func $none))
  (export "environ_sizes_get" (func $none))
  (export "args_get" (func $nothing))
  (export "environ_get" (func $nothing))

  ;; Go's runtime calls it around what it allocates for the gateway; this clock
  ;; needs no pause.
  (func (export "adapter_monotonic_clock_set_paused") (param i32))

  ;; No descriptor is open but the two streams, nor is one to be had.
  (func $bad_1 (param i32) (result i32) (global.get $badf))
  (func $bad_2 (param i32 i32) (result i32) (global.get $badf))
  (func $bad_3 (param i32 i32 i32) (result i32) (global.get $badf))
  (func $bad_4 (param i32 i32 i32 i32) (result i32) (global.get $badf))
  (func $bad_5 (param i32 i32 i32 i32 i32) (result i32) (global.get $badf))
  (func $bad_6 (param i32 i32 i32 i32 i32 i32) (result i32) (global.get $badf))
  (func $bad_7 (param i32 i32 i32 i32 i32 i32 i32) (result i32) (global.get $badf))
  (export "fd_close" (func $bad_1))
  (export "fd_datasync" (func $bad_1))
  (export "fd_sync" (func $bad_1))
  (export "fd_fdstat_get" (func $bad_2))
  (export "fd_fdstat_set_flags" (func $bad_2))
  (export "fd_filestat_get" (func $bad_2))
  (export "fd_prestat_get" (func $bad_2))
  (export "fd_renumber" (func $bad_2))
  (export "fd_tell" (func $bad_2))
  (export "fd_prestat_dir_name" (func $bad_3))
  (export "fd_read" (func $bad_4))
  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) (global.get $badf))
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) (global.get $badf))
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) (global.get $badf))
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) (global.get $badf))
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) (global.get $badf))
  (func $at_place (param i32 i32 i32 i64 i32) (result i32) (global.get $badf))
  (export "fd_pread" (func $at_place))
  (export "fd_pwrite" (func $at_place))
  (export "fd_readdir" (func $at_place))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (global.get $badf))
  (export "path_create_directory" (func $bad_3))
  (export "path_filestat_get" (func $bad_5))
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32) (global.get $badf))
  (export "path_link" (func $bad_7))
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) (global.get $badf))
  (export "path_readlink" (func $bad_6))
  (export "path_remove_directory" (func $bad_3))
  (export "path_rename" (func $bad_6))
  (export "path_symlink" (func $bad_5))
  (export "path_unlink_file" (func $bad_3))
  (export "sock_accept" (func $bad_3))
  (export "sock_recv" (func $bad_6))
  (export "sock_send" (func $bad_5))
  (export "sock_shutdown" (func $bad_2)))
