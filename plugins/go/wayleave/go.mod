module wayleave

go 1.24
