// Package log writes lines into the gateway's log, under the plugin's name.
// Grant `log`. With it, a panic and what is printed is logged too.
//
// Lines beyond the plugin's budget are dropped and counted; long ones cut. In
// tests they go to standard error.
package log

const (
	debug uint32 = iota
	info
	warn
	fault
)

func Debug(message string) { write(debug, message) }
func Info(message string)  { write(info, message) }
func Warn(message string)  { write(warn, message) }
func Error(message string) { write(fault, message) }
