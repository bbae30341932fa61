//go:build !wasip1

package log

import "os"

func write(level uint32, message string) {
	os.Stderr.WriteString([]string{"debug", "info", "warn", "error"}[level] + ": " + message + "\n")
}
