//go:build !wasip1

package random

import (
	"crypto/rand"
	"encoding/binary"
)

func bytes(length uint32) []byte {
	bytes := make([]byte, length)
	rand.Read(bytes)
	return bytes
}

func number() uint64 { return binary.LittleEndian.Uint64(bytes(8)) }
