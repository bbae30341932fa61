module mentions

go 1.24

require wayleave v0.0.0

replace wayleave => ./wayleave
