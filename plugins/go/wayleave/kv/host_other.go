//go:build !wasip1

package kv

import (
	"strconv"
	"sync"
	"time"

	"wayleave"
)

type entry struct {
	value wayleave.Payload
	ends  time.Time
}

var (
	mutex sync.Mutex
	store = map[string]entry{}
)

func live(key string) (entry, bool) {
	found, ok := store[key]
	return found, ok && (found.ends.IsZero() || time.Now().Before(found.ends))
}

func end(ttl uint64) time.Time {
	if ttl == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(ttl) * time.Millisecond)
}

func get(key string) (wayleave.Payload, error) {
	mutex.Lock()
	defer mutex.Unlock()
	if found, ok := live(key); ok {
		return found.value, nil
	}
	return nil, nil
}

func set(key string, value wayleave.Payload, ttl uint64) error {
	mutex.Lock()
	defer mutex.Unlock()
	store[key] = entry{value, end(ttl)}
	return nil
}

func remove(key string) (bool, error) {
	mutex.Lock()
	defer mutex.Unlock()
	_, was := live(key)
	delete(store, key)
	return was, nil
}

func increment(key string, by int64, ttl uint64) (int64, error) {
	mutex.Lock()
	defer mutex.Unlock()
	found, ok := live(key)
	if !ok {
		found = entry{wayleave.Text("0"), end(ttl)}
	}
	text, _ := found.value.(wayleave.Text)
	number, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0, ErrNotANumber
	}
	store[key] = entry{wayleave.Text(strconv.FormatInt(number+by, 10)), found.ends}
	return number + by, nil
}
